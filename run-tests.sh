#!/bin/sh
# Runs the tests; arguments go to pytest.
#
#   sh run-tests.sh                        the fast suite
#   sh run-tests.sh tests/tap -k budget    some of it
#   sh run-tests.sh -m slow                the long proofs
set -eu
cd "$(dirname -- "$0")"

# shellcheck source=scripts/python.sh
. scripts/python.sh
exec "$python" scripts/setup.py --tests -- .venv-tests/bin/python -m pytest -m "not slow" "$@"
