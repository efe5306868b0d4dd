#!/bin/sh
# Rewrites the locks (*.txt) from the pyproject.toml files and the *.in files.
#
#   sh requirements/compile.sh              keep versions where they still fit
#   sh requirements/compile.sh --upgrade    take the newest versions
#
# Needs uv on the PATH, or the one that run-ingestion.sh installed.
set -eu
cd "$(dirname -- "$0")/.."

if [ -x .venv/bin/uv ]; then uv=.venv/bin/uv; else uv=uv; fi

# The configuration of this machine (other indexes, caches of wheels) must not
# leak into files that every machine installs from.
unset UV_INDEX UV_EXTRA_INDEX_URL UV_FIND_LINKS UV_CONSTRAINT UV_OVERRIDE
unset UV_BUILD_CONSTRAINT UV_PRERELEASE UV_EXCLUDE_NEWER

# One lock takes the versions of those before it: $1 is its name, the rest its input.
lock() {
    name=$1
    shift
    # shellcheck disable=SC2086 # several options are several words
    "$uv" pip compile --quiet --no-config \
        --universal --python-version 3.10 --generate-hashes \
        --custom-compile-command 'sh requirements/compile.sh' \
        --output-file "requirements/$name.txt" $options "$@"
    echo "requirements/$name.txt: $(grep -c '^[a-z].*==' "requirements/$name.txt") packages"
}

options=$*
lock build requirements/build.in
# Meltano has the tightest bounds, so its lock comes first.
lock run requirements/run.in ingestion/pyproject.toml sandbox/pyproject.toml monitoring/pyproject.toml
lock uv requirements/uv.in -c requirements/run.txt
lock tap tap-datasync/pyproject.toml -c requirements/run.txt
lock target target-config/pyproject.toml -c requirements/run.txt -c requirements/tap.txt
lock tests requirements/tests.in tap-datasync/pyproject.toml target-config/pyproject.toml \
    ingestion/pyproject.toml sandbox/pyproject.toml \
    monitoring/pyproject.toml --extra web --extra metrics \
    -c requirements/run.txt -c requirements/tap.txt -c requirements/target.txt
lock dashboard requirements/dashboard.in monitoring/pyproject.toml --extra web --extra metrics \
    -c requirements/run.txt
lock checks requirements/checks.in tap-datasync/pyproject.toml target-config/pyproject.toml \
    ingestion/pyproject.toml sandbox/pyproject.toml monitoring/pyproject.toml --extra web --extra metrics \
    -c requirements/build.txt -c requirements/run.txt -c requirements/tests.txt
