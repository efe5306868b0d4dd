#!/bin/sh
# Rewrites the locks (*.txt), here and in bench/requirements, from the pyproject.toml
# files and the *.in files.
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

options=$*

# One lock takes the versions of those before it: $1 is its path, the rest its input.
lock() {
    file=$1.txt
    shift
    # shellcheck disable=SC2086 # several options are several words
    "$uv" pip compile --quiet --no-config \
        --universal --python-version 3.10 --generate-hashes \
        --custom-compile-command 'sh requirements/compile.sh' \
        --output-file "$file" $options "$@"
    echo "$file: $(grep -c '^[a-z].*==' "$file") packages"
}

ours='tap-datasync/pyproject.toml target-config/pyproject.toml ingestion/pyproject.toml
    sandbox/pyproject.toml monitoring/pyproject.toml --extra web --extra metrics'

lock requirements/build requirements/build.in
# Meltano has the tightest bounds, so its lock comes first.
lock requirements/run requirements/run.in \
    ingestion/pyproject.toml sandbox/pyproject.toml monitoring/pyproject.toml
lock requirements/uv requirements/uv.in -c requirements/run.txt
lock requirements/tap tap-datasync/pyproject.toml -c requirements/run.txt
lock requirements/target target-config/pyproject.toml \
    -c requirements/run.txt -c requirements/tap.txt
# shellcheck disable=SC2086 # several files are several words
lock requirements/tests requirements/tests.in $ours \
    -c requirements/run.txt -c requirements/tap.txt -c requirements/target.txt
lock requirements/dashboard requirements/dashboard.in \
    monitoring/pyproject.toml --extra web --extra metrics -c requirements/run.txt
# shellcheck disable=SC2086
lock requirements/checks requirements/checks.in $ours \
    -c requirements/build.txt -c requirements/run.txt -c requirements/tests.txt
lock bench/requirements/bench bench/requirements/bench.in sandbox/pyproject.toml \
    -c requirements/run.txt
lock bench/requirements/singer bench/requirements/singer.in -c requirements/target.txt
lock bench/requirements/dlt bench/requirements/dlt.in
