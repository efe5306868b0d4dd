#!/bin/sh
# Runs scripts/install.py (see there for the arguments) with the Python of .venv if it works, else
# with $PYTHON, else with the first supported one on the PATH.
set -eu
root=$(cd -- "$(dirname -- "$0")/.." && pwd -P)

# Settings that would install packages outside the environment.
unset PYTHONHOME PYTHONPATH PIP_PREFIX PIP_TARGET
export PIP_REQUIRE_VIRTUALENV=0 PIP_USER=0

for path in "$root" "$root/.venvs" "$root/.run" "$root/.meltano" "$root/.sandbox"; do
    if [ -e "$path" ] && [ ! -w "$path" ]; then
        echo "$path cannot be written: another user, or sudo, has run here. Make the checkout" \
            "yours: sudo chown -R \"\$(id -un)\" '$root'" >&2
        exit 1
    fi
done

# Sets $python to the first of its arguments that runs and is supported.
find_python() {
    for python; do
        "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 15))' \
            >/dev/null 2>&1 && return
    done
    return 1
}

if [ -n "${PYTHON-}" ]; then
    find_python "$root/.venv/bin/python" "$PYTHON"
else
    find_python "$root/.venv/bin/python" python3 python3.13 python3.12 python3.11 python3.10 \
        python3.14 python
fi || {
    echo "No Python from 3.10 to 3.14 found (looked for: ${PYTHON:-python3 on the PATH})." \
        "Install one, or set PYTHON=/path/to/python3." >&2
    exit 1
}
exec "$python" "$root/scripts/install.py" "$@"
