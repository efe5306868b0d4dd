#!/bin/sh
# Measures the lanes beside their peers. `sh bench/run.sh --help` lists the options.
set -eu
cd "$(dirname -- "$0")/.."

# shellcheck source=scripts/python.sh
. scripts/python.sh
"$python" scripts/setup.py
"$python" bench/install.py
exec bench/.venvs/bench/bin/python bench/main.py "$@"
