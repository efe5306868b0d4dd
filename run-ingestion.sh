#!/bin/sh
# Loads the DataSync events into PostgreSQL; `sh run-ingestion.sh --help` lists the options.
set -eu
cd "$(dirname -- "$0")"

stop=
for option; do
    case $option in
    -h | --help) exec cat ingestion/src/datasync_ingestion/help.txt ;;
    --docker) exec sh docker/run.sh "$@" ;;
    --stop-sandbox) stop=yes ;;
    esac
done
if [ -n "$stop" ]; then
    [ ! -x .venv/bin/datasync-ingest ] || exec .venv/bin/datasync-ingest "$@"
    echo "No sandbox runs here: nothing is installed."
    exit 0
fi
exec sh scripts/install.sh -- .venv/bin/datasync-ingest "$@"
