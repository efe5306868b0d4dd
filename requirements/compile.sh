#!/bin/sh
# Writes requirements/lock.txt: every package that is installed anywhere in the project, with
# hashes, for Linux and macOS and Python 3.10 to 3.14.
#
#   sh requirements/compile.sh              keep the locked versions
#   sh requirements/compile.sh --upgrade    take the newest versions
set -eu
cd "$(dirname -- "$0")/.."
if [ -x .venv/bin/uv ]; then uv=.venv/bin/uv; else uv=uv; fi

# The lock must not depend on this machine's configuration.
unset UV_CONSTRAINT UV_EXCLUDE_NEWER UV_EXTRA_INDEX_URL UV_FIND_LINKS UV_INDEX UV_OVERRIDE UV_PRERELEASE

"$uv" pip compile --quiet --no-config --universal --python-version 3.10 --generate-hashes \
    --no-annotate --custom-compile-command 'sh requirements/compile.sh' "$@" \
    --output-file requirements/lock.txt requirements/dev.in requirements/bench.in \
    tap-datasync/pyproject.toml target-config/pyproject.toml ingestion/pyproject.toml \
    sandbox/pyproject.toml monitoring/pyproject.toml --all-extras
