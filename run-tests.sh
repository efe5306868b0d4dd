#!/bin/sh
# Runs the tests, in two processes; arguments go to pytest.
#
#   sh run-tests.sh                             the fast suite
#   sh run-tests.sh tests/tap -k rate_limit     some of it
#   sh run-tests.sh -m slow                     the long tests
set -eu
cd "$(dirname -- "$0")"
exec sh scripts/install.sh --dev -- .venv-dev/bin/python -m pytest -n 2 --dist worksteal -m "not slow" "$@"
