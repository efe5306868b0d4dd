#!/bin/sh
# Measures the lanes beside their peers. `sh bench/run.sh --help` lists the options.
set -eu
cd "$(dirname -- "$0")/.."

exec sh scripts/install.sh --bench -- .venv-bench/bin/python bench/main.py "$@"
