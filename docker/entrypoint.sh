#!/bin/sh
# What the container of the load runs. Without an API key, or with the placeholder of .env.example,
# the events come from the sandbox of the same Compose project if it runs (--profile sandbox), but
# only into the database of the project.
set -eu
case ${API_KEY:-${API_KEY_FILE:-}} in
'' | put-your-api-key-here)
    if [ "${DB_HOST:-}" = postgres ] && getent hosts sandbox >/dev/null; then
        export API_BASE_URL=http://sandbox:8765/api/v1 API_KEY=sandbox-key
    fi
    ;;
esac
exec datasync-ingest "$@"
