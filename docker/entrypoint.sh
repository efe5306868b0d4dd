#!/bin/sh
# What the container of the pipeline runs. Without an API_KEY the sandbox of the
# same Compose project stands in for the API, if it is there (--profile sandbox).
set -eu
if [ -z "${API_KEY:-}" ] && getent hosts sandbox >/dev/null; then
    export API_BASE_URL=http://sandbox:8765/api/v1 API_KEY=sandbox-key
fi
exec /app/.venv/bin/datasync-ingest "$@"
