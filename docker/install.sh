#!/bin/sh
# The steps of the Dockerfile that install something. Run in /app.
#
#   install.sh tools                         uv and the build backend, into /opt/tools
#   install.sh dependencies OPTION...        an environment, with what uv's options name
#   install.sh packages DIRECTORY...         this project's packages; needs no network
set -eu

tools=/opt/tools
step=$1
shift

# Of a machine behind a mirror: its pip.conf and its certificates, as build secrets.
if [ -s /run/secrets/pip.conf ]; then
    export PIP_CONFIG_FILE=/run/secrets/pip.conf
fi
if [ -s /run/secrets/ca.pem ]; then
    export SSL_CERT_FILE=/run/secrets/ca.pem PIP_CERT=/run/secrets/ca.pem
fi
export UV_PYTHON_DOWNLOADS=never UV_NO_CACHE=1 UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1

# uv does not read pip's configuration: of that, where the index is.
index=$(python3 -m pip config list 2>/dev/null | sed -n "s/^[^.]*\.index-url='\(.*\)'\$/\1/p" | tail -n 1)
[ -z "$index" ] || export UV_DEFAULT_INDEX="$index"

uv_install() {
    "$tools/bin/uv" pip install --quiet --only-binary :all: --constraints requirements/lock.txt "$@"
}

case $step in
tools)
    python3 -m venv "$tools"
    sed -n '/^uv==/,/[^\\]$/p' requirements/lock.txt >/tmp/uv.txt
    "$tools/bin/pip" install --no-cache-dir --no-input --disable-pip-version-check --require-hashes --requirement /tmp/uv.txt
    uv_install --python "$tools" hatchling editables
    ;;
dependencies)
    "$tools/bin/uv" venv --quiet --no-project --python "$(command -v python3)" .venv
    uv_install --python .venv "$@"
    # Nothing is installed or compiled later, and nothing runs the libraries' own tests.
    cd .venv/lib/python3*/site-packages
    rm -rf pip pip-* uv uv-* ../../../bin/uv ../../../bin/uvx ../../../bin/pip* virtualenv/seed/wheels/embed/*.whl
    find . \( -name tests -type d -o -name '*.c' \) -prune -exec rm -rf {} +
    ;;
packages)
    for package in "$@"; do
        set -- "$@" --editable "./$package"
        shift
    done
    PYTHONPATH=$(echo "$tools"/lib/python3*/site-packages) \
        "$tools/bin/uv" pip install --quiet --python .venv --offline --no-deps --no-build-isolation "$@"
    # The container's user may not write bytecode beside the sources, and compiling them at each start
    # takes a second.
    python3 -m compileall -q -- */src
    ;;
esac
