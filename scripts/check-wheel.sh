#!/bin/sh
# Builds the tap's sdist and wheel, and tests the wheel in an environment that contains only the
# wheel and its dependencies. The test tools are in a directory of their own on PYTHONPATH. Part of
# run-checks.sh, which sets the PATH.
set -eu
cd "$(dirname -- "$0")/.."
out=$PWD/.venvs/wheel
rm -rf "$out"
mkdir -p "$out"

# The wheel is built from the sdist, which shows that the sdist is complete.
python -m build --no-isolation --outdir "$out/dist" tap-datasync
twine check --strict "$out"/dist/*
python -m zipfile --list "$out"/dist/*.whl >"$out/files"
grep -q py.typed "$out/files"
grep -q LICENSE "$out/files"

uv venv --quiet "$out/venv"
uv pip install --quiet --python="$out/venv" --constraints=requirements/lock.txt "$out"/dist/*.whl
uv pip check --python="$out/venv"
"$out/venv/bin/tap-datasync" --version
"$out/venv/bin/tap-datasync" --about --format=json >"$out/about.json"
if "$out/venv/bin/python" -c 'import datasync_sandbox' 2>/dev/null; then
    echo "The environment of the wheel is not clean."
    exit 1
fi

uv pip install --quiet --python="$out/venv" --target="$out/tools" --constraints=requirements/lock.txt \
    pytest hypothesis ./sandbox
PYTHONPATH=$out/tools PYTHONDONTWRITEBYTECODE=1 \
    "$out/venv/bin/python" -m pytest -q -p no:cacheprovider -m "not slow" tests/tap
