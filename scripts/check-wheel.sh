#!/bin/sh
# Builds the tap's wheel and sdist, without the network and with the locked build
# backend, and tests the wheel: in an environment that holds what a user gets (the
# wheel and its run-time dependencies) and nothing else of ours. The test tools are
# on the path beside it, not in it. Part of run-checks.sh, which sets the PATH.
set -eu
cd "$(dirname -- "$0")/.."

out=$PWD/.run/wheel
rm -rf "$out"
mkdir -p "$out"

python -m build --no-isolation --outdir "$out/dist" tap-datasync >"$out/build.log" 2>&1 || {
    cat "$out/build.log"
    exit 1
}
twine check --strict "$out"/dist/*

# uv reads no configuration of pip's, so it is told where pip finds packages, unless somebody
# has told it already.
if [ -z "${UV_DEFAULT_INDEX-}${UV_INDEX_URL-}" ]; then
    index=$(python -m pip config list | sed -n "s/^[^.]*\.index-url='\(.*\)'\$/\1/p" | tail -n 1)
    [ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
fi
export UV_NO_CONFIG=1 UV_NO_PROGRESS=1

wheel=$(ls "$out"/dist/*.whl)
uv venv --quiet "$out/venv"
uv pip install --quiet --python "$out/venv" --require-hashes --requirement requirements/tap.txt
uv pip install --quiet --python "$out/venv" --no-deps --offline "$wheel"
uv pip check --python "$out/venv"

# The sdist holds what the wheel is made from, and builds the same modules.
python -m build --no-isolation --wheel --outdir "$out/again" "$out/dist/"*.tar.gz >>"$out/build.log" 2>&1 || {
    cat "$out/build.log"
    exit 1
}
python - "$wheel" "$out/again" <<'PYTHON'
import pathlib, sys, zipfile

def contents(path):
    with zipfile.ZipFile(path) as wheel:
        return {name: wheel.read(name) for name in wheel.namelist() if not name.endswith("RECORD")}

[again] = pathlib.Path(sys.argv[2]).glob("*.whl")
assert contents(sys.argv[1]) == contents(again), "the sdist builds another wheel"
assert any(name.endswith("py.typed") for name in contents(again)), "py.typed is missing"
assert any("LICENSE" in name for name in contents(again)), "the licence is missing"
PYTHON

# What the tests bring along: their tools, and the sandbox that they talk to.
uv pip install --quiet --python "$out/venv" --target "$out/tools" --no-deps \
    --constraint requirements/tests.txt pytest pluggy iniconfig pygments hypothesis sortedcontainers \
    exceptiongroup tomli aiohttp aiohappyeyeballs aiosignal async-timeout attrs frozenlist multidict \
    propcache psutil yarl idna
if "$out/venv/bin/python" -c 'import datasync_sandbox' 2>/dev/null; then
    echo "The environment of the wheel is not clean."
    exit 1
fi
"$out/venv/bin/tap-datasync" --version
"$out/venv/bin/tap-datasync" --about --format=json >"$out/about.json"
PYTHONPATH=$out/tools:$PWD/sandbox/src PYTHONDONTWRITEBYTECODE=1 \
    "$out/venv/bin/python" -m pytest -q -p no:cacheprovider -m "not slow" tests/tap
