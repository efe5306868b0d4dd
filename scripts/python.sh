# shellcheck shell=sh
# Sourced by the scripts that install first: run-ingestion.sh, run-tests.sh,
# run-checks.sh, bench/run.sh and tests/ship/load-and-compare.sh. Sets $python to a
# Python that can install the project, or ends with one sentence that says what is
# missing.

# Settings that would send an installation elsewhere than into its own environment.
unset PYTHONHOME PYTHONPATH PIP_PREFIX PIP_REQUIRE_VIRTUALENV PIP_TARGET PIP_USER

# True when "$1" runs and is a Python that Meltano supports.
usable_python() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 15))' >/dev/null 2>&1
}

python=
if [ -n "${PYTHON:-}" ]; then
    # Who names one wants that one and no other.
    if ! usable_python "$PYTHON"; then
        echo "PYTHON names $PYTHON, which is no Python from 3.10 to 3.14: name another one, or unset it." >&2
        exit 1
    fi
    python=$PYTHON
else
    for candidate in python3 python3.13 python3.12 python3.11 python3.10 python3.14 python; do
        if usable_python "$candidate"; then
            python=$candidate
            break
        fi
    done
fi

if [ -z "$python" ]; then
    echo "No Python from 3.10 to 3.14 was found: install one, or name it with PYTHON=/path/to/python3." >&2
    exit 1
fi
if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    echo "$python cannot create virtual environments: install its venv package (on Debian and Ubuntu: apt install python3-venv)." >&2
    exit 1
fi
