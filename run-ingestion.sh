#!/bin/sh
# Loads the DataSync events into PostgreSQL. `sh run-ingestion.sh --help` says how.
set -eu
cd "$(dirname -- "$0")"

for option; do
    case $option in
    -h | --help)
        cat ingestion/src/datasync_ingestion/help.txt
        exit 0
        ;;
    --docker)
        exec sh docker/run.sh "$@"
        ;;
    esac
done

# shellcheck source=scripts/python.sh
. scripts/python.sh
exec "$python" scripts/setup.py -- .venv/bin/datasync-ingest "$@"
