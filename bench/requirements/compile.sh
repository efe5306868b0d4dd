#!/bin/sh
# Rewrites the locks (*.txt) of the bench.
#
#   sh bench/requirements/compile.sh              keep versions where they still fit
#   sh bench/requirements/compile.sh --upgrade    take the newest versions
#
# Needs uv on the PATH, or the one that run-ingestion.sh installed.
set -eu
cd "$(dirname -- "$0")/../.."

if [ -x .venv/bin/uv ]; then uv=.venv/bin/uv; else uv=uv; fi

# The configuration of this machine (other indexes, caches of wheels) must not
# leak into files that every machine installs from.
unset UV_INDEX UV_EXTRA_INDEX_URL UV_FIND_LINKS UV_CONSTRAINT UV_OVERRIDE
unset UV_BUILD_CONSTRAINT UV_PRERELEASE UV_EXCLUDE_NEWER

options=$*

# $1 is the lock's name, the rest its input.
lock() {
    name=$1
    shift
    # shellcheck disable=SC2086 # several options are several words
    "$uv" pip compile --quiet --no-config \
        --universal --python-version 3.10 --generate-hashes \
        --custom-compile-command 'sh bench/requirements/compile.sh' \
        --output-file "bench/requirements/$name.txt" $options "$@"
    echo "bench/requirements/$name.txt: $(grep -c '^[a-z].*==' "bench/requirements/$name.txt") packages"
}

lock bench bench/requirements/bench.in sandbox/pyproject.toml -c requirements/run.txt
lock singer bench/requirements/singer.in -c requirements/target.txt
lock dlt bench/requirements/dlt.in
