#!/bin/sh
# Measures this project beside other ways to load the same events; `sh bench/run.sh --help` lists
# the options.
set -eu
cd "$(dirname -- "$0")/.."

sh scripts/install.sh
exec sh scripts/install.sh --bench -- .venv-bench/bin/python bench/main.py "$@"
