#!/bin/sh
# What the container of the pipeline runs. Without an API_KEY, or with the placeholder
# of .env.example, the sandbox of the same Compose project stands in for the API, if it
# is there (--profile sandbox).
set -eu
case ${API_KEY:-} in
'' | put-your-api-key-here)
    if getent hosts sandbox >/dev/null; then
        export API_BASE_URL=http://sandbox:8765/api/v1 API_KEY=sandbox-key
    fi
    ;;
esac
exec /app/.venv/bin/datasync-ingest "$@"
