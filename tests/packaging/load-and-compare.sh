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
.venv/bin/python - "$events" <<'PYTHON'
import json
import os
import subprocess
import sys

import psycopg

names = {"host": "DB_HOST", "port": "DB_PORT", "user": "DB_USER", "password": "DB_PASSWORD", "dbname": "DB_NAME"}
with psycopg.connect(**{name: os.environ[variable] for name, variable in names.items()}) as connection:
    version = connection.info.server_version // 10_000
    loaded = connection.execute(
        "SELECT id, session_id, user_id, type, name, properties, session,"
        " to_char(timestamp AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS') FROM events"
    ).fetchall()
feed = subprocess.run(
    [".venv/bin/datasync-sandbox", "feed", "--events", sys.argv[1]], check=True, capture_output=True, text=True
).stdout.splitlines()
keys = ("id", "session_id", "user_id", "type", "name", "properties", "session")
expected = {row["id"]: (*(row[key] for key in keys), row["timestamp"][:23]) for row in map(json.loads, feed)}
assert len(loaded) == len(expected), (len(loaded), len(expected))
for row in loaded:
    assert row == expected[row[0]], (row, expected[row[0]])
print(f"PostgreSQL {version}: {len(loaded)} events, every field as the feed has it")
PYTHON
