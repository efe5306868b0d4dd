#!/bin/sh
# Loads sample events with run-ingestion.sh into the PostgreSQL server named by DB_HOST, DB_PORT,
# DB_USER, DB_PASSWORD and DB_NAME, and compares the table with the feed, event by event. The CI
# runs it with every supported version of PostgreSQL. Arguments go to run-ingestion.sh.
set -eu
cd "$(dirname -- "$0")/../.."
: "${DB_HOST:?name the database: DB_HOST, DB_PORT, DB_USER, DB_PASSWORD, DB_NAME}"
events=20000

sh scripts/install.sh
log=$(mktemp)
.venv/bin/datasync-sandbox api --port 0 --events "$events" --limit 100 >"$log" &
sandbox=$!
trap 'kill "$sandbox"; rm -f "$log"' EXIT
until grep -q '^http' "$log"; do
    kill -0 "$sandbox"
    sleep 1
done
API_BASE_URL=$(cat "$log") API_KEY=sandbox-key
export API_BASE_URL API_KEY

sh run-ingestion.sh "$@"
.venv/bin/python tests/docker/compare.py --events "$events"
