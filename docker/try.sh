#!/bin/sh
# Tries the containers on a real Docker engine, in a copy of the checkout and as a project of its
# own: builds the images, loads sample events, stops and kills the load, takes its database away,
# resumes, and compares the table with the feed. Everything it makes is removed at the end.
#
#   sh docker/try.sh
#
# Needs Docker with Compose v2, git and Python. `sh tests/docker/engine.sh` installs and starts
# Docker on a Debian machine; the base images come from tests/docker/images/build.sh.
set -eu
cd "$(dirname -- "$0")/.."

sh tests/docker/images/build.sh

# No setting of this machine's user counts, but where the package index is.
for name in $(env | sed -n 's/^\(\(API\|BATCH\|COMPOSE\|DB\|MELTANO\|SANDBOX\|TAP\|TARGET\)_[A-Z_]*\)=.*/\1/p'); do
    unset "$name"
done
work=$(mktemp -d)
copy=$work/datasync-try
mkdir "$copy"
git ls-files -z --cached --others --exclude-standard |
    tar --create --null --files-from=- --ignore-failed-read 2>/dev/null | tar --extract --directory="$copy"
python3 -m pip config list 2>/dev/null |
    sed -n "s/^[^.]*\.\(index-url\|trusted-host\)='\(.*\)'\$/\1 = \2/p" | sort -u | sed '1i [global]' >"$work/pip.conf"
export BUILD_PIP_CONF="$work/pip.conf"
[ ! -r "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" ] ||
    export BUILD_CA_FILE="${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}"

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
DB_PORT=$(free_port) DASHBOARD_PORT=$(free_port) PROMETHEUS_PORT=$(free_port)
events=60000
# Twelve pages, one in five seconds: time enough to interrupt them.
SANDBOX_OPTIONS="--limit 1 --window 5"
export DB_PORT DASHBOARD_PORT PROMETHEUS_PORT SANDBOX_OPTIONS SANDBOX_EVENTS=$events
cd "$copy"
log=$work/log

finish() {
    rm -f .env
    docker rm --force datasync-try-api >/dev/null 2>&1 || true
    docker compose --profile '*' down --volumes --remove-orphans --rmi local >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

# expect WHAT WANTED SEEN: a line of the table, or the end.
expect() {
    if [ "$2" != "$3" ]; then
        echo "FAILED  $1: $3, not $2" >&2
        tail -n 20 "$work"/*log >&2 || true
        docker compose ps --all >&2
        docker compose logs --tail 40 ingestion >&2
        exit 1
    fi
    printf 'ok  %-70s %s\n' "$1" "$3"
}
# code COMMAND...: runs it with its output in the log, and prints the exit code.
code() {
    status=0
    "$@" >"$log" 2>&1 </dev/null || status=$?
    echo "$status"
}
# logged TEXT: whether the output of the last command has it.
logged() { if grep -qF -e "$1" "$log"; then echo yes; else echo no; fi; }
sql() { docker compose exec -T postgres psql --username datasync --tuples-only --no-align --command "$1" events </dev/null; }
rows() { sql 'SELECT count(*) FROM events' 2>/dev/null || echo 0; }
# Waits until the load that was just started has loaded a page.
wait_for_a_page() {
    before=$(rows)
    tries=0
    until [ -n "$(docker compose ps --quiet --status running ingestion)" ] && [ "$(rows)" -gt "$before" ]; do
        tries=$((tries + 1))
        [ $tries -lt 240 ] || expect "a page within two minutes" yes no
        sleep 0.5
    done
}
exit_code() { docker inspect --format '{{.State.ExitCode}}' "$(docker compose ps --all --quiet "$1")"; }
requests() {
    docker compose exec -T sandbox python -c '
import json, urllib.request
print(json.load(urllib.request.urlopen("http://127.0.0.1:8765/__sandbox__/stats"))["requests"])' </dev/null
}
compare() {
    docker compose run --rm --no-deps -T --entrypoint python ingestion - --events "$events" \
        >"$log" 2>&1 <tests/docker/compare.py
}

# -- Build -----------------------------------------------------------------------------------
expect "build" 0 "$(code docker compose build)"
docker image ls --format '      {{.Repository}} {{.Size}}' --filter 'reference=datasync-try-*'
echo '# A comment' >>tap-datasync/src/tap_datasync/tap.py
started=$(date +%s)
built=$(code docker compose build)
expect "build after a changed comment ($(($(date +%s) - started)) s)" 0 "$built"
expect "  dependencies installed again" 0 "$(awk '/install.sh dependencies/ {step[$1]} /^#[0-9]+ DONE/ && $1 in step {n++} END {print n + 0}' "$log")"

# -- Signals ---------------------------------------------------------------------------------
sh run-ingestion.sh --docker >"$work/run.log" 2>&1 </dev/null &
script=$!
wait_for_a_page
expect "no .env, no terminal: the load is in ps" ingestion "$(docker compose ps --services | grep ingestion)"
expect "  a second run-ingestion.sh is refused" 75 "$(code sh run-ingestion.sh --docker)"
expect "  naming how to stop the first" yes "$(logged 'docker compose stop ingestion')"
expect "  a second container is refused" 75 "$(code docker compose run --rm ingestion)"
kill -TERM $script
status=0
wait $script || status=$?
expect "SIGTERM to run-ingestion.sh: its exit code" 143 $status
expect "  exit code of the load" 143 "$(exit_code ingestion)"
expect "  the load is not finished" yes "$([ "$(rows)" -lt $events ] && echo yes)"

expect "docker compose up, then kill" 0 "$(code docker compose --profile sandbox up --detach ingestion)"
wait_for_a_page
docker compose kill ingestion >/dev/null 2>&1
expect "  exit code of the load" 137 "$(exit_code ingestion)"
expect "docker compose up, then stop" 0 "$(code docker compose --profile sandbox up --detach ingestion)"
wait_for_a_page
docker compose stop ingestion >/dev/null 2>&1
expect "  exit code of the load" 143 "$(exit_code ingestion)"

# -- The database goes and comes back, then the end ------------------------------------------
sh run-ingestion.sh --docker >"$work/run.log" 2>&1 </dev/null &
script=$!
wait_for_a_page
docker compose stop postgres >/dev/null 2>&1
sleep 20
docker compose start postgres >/dev/null 2>&1
status=0
wait $script || status=$?
expect "database away for 20 s: the load resumes and ends" 0 $status
expect "  every event, every field as in the feed" 0 "$(compare && echo 0)"
expect "  requests for 12 pages and four interruptions: below 25" yes "$([ "$(requests)" -lt 25 ] && echo yes)"
sent=$(requests)
expect "second run" 0 "$(code sh run-ingestion.sh --docker)"
expect "  asks for the newest events alone" yes "$([ $(($(requests) - sent)) -le 2 ] && echo yes)"
expect "full refresh" 0 "$(code sh run-ingestion.sh --docker --full-refresh)"
expect "  nothing twice, nothing lost" 0 "$(compare && echo 0)"
docker compose rm --force ingestion >/dev/null 2>&1
docker volume rm datasync-try_ingestion-state >/dev/null
sent=$(requests)
expect "state volume lost" 0 "$(code sh run-ingestion.sh --docker)"
expect "  continues from the checkpoint" yes "$([ $(($(requests) - sent)) -le 2 ] && echo yes)"

# -- Settings --------------------------------------------------------------------------------
expect "wrong password" 2 "$(code env DB_PASSWORD=wrong docker compose run --rm ingestion)"
expect "no key and no sandbox" 2 "$(
    docker compose --profile sandbox stop sandbox >/dev/null 2>&1
    code docker compose run --rm ingestion
)"
expect "  naming the setting" yes "$(logged API_KEY)"
expect "--events with a key" 2 "$(code env API_KEY=key sh run-ingestion.sh --docker --events 5)"

# An API on another host, with a key of its own; a database that is not the service `postgres`, as
# far as Compose knows. Key and password are in files.
docker run --detach --name datasync-try-api --network datasync-try_default --env DATASYNC_SANDBOX_KEY=key-of-the-api \
    --no-healthcheck --entrypoint datasync-sandbox datasync-try-pipeline api --host 0.0.0.0 --events $events --limit 20 --window 4 >/dev/null
sql 'CREATE DATABASE own' >/dev/null
mkdir -m 700 secrets
echo key-of-the-api >secrets/key
docker compose exec -T postgres cat /run/db/password >secrets/password </dev/null
chmod 444 secrets/*
cat >.env <<'ENV'
API_BASE_URL = "http://datasync-try-api:8765/api/v1"  # quoted, with a comment
API_KEY_FILE: ./secrets/key
DB_HOST=datasync-try-postgres-1
DB_NAME='own'
DB_PASSWORD_FILE=./secrets/password
ENV
expect "own database (DB_HOST): no service postgres" "dashboard ingestion " "$(docker compose config --services | sort | tr '\n' ' ')"
expect "  run-ingestion.sh with key and password in files" 0 "$(code sh run-ingestion.sh --docker)"
expect "  every event, every field as in the feed" 0 "$(compare && echo 0)"
expect "  neither is in docker inspect" 0 "$(docker inspect "$(docker compose ps --all --quiet ingestion)" | grep -cF -e key-of-the-api -e "$(cat secrets/password)" || true)"
expect "wrong key" 3 "$(code docker compose run --rm --env API_KEY=wrong ingestion)"
expect "  tried once" 0 "$(grep -c 'restart 1' "$log" || true)"
rm .env

# -- Beside the load -------------------------------------------------------------------------
expect "metrics profile" 0 "$(code docker compose --profile metrics up --detach --wait metrics prometheus dashboard)"
page() { python3 -c 'import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=10).read().decode())' "$1"; }
expect "  the dashboard answers" ok "$(page "http://127.0.0.1:$DASHBOARD_PORT/_stcore/health")"
tries=0
until page "http://127.0.0.1:$PROMETHEUS_PORT/api/v1/query?query=datasync_database_up" 2>/dev/null | grep -q '"value"'; do
    tries=$((tries + 1))
    [ $tries -lt 60 ] || expect "Prometheus has the metrics within a minute" yes no
    sleep 1
done
expect "  alert rules are loaded" yes "$(page "http://127.0.0.1:$PROMETHEUS_PORT/api/v1/rules" | grep -q alert && echo yes)"
expect "--stop-sandbox stops all" 0 "$(code sh run-ingestion.sh --docker --stop-sandbox)"
expect "  nothing runs" "" "$(docker compose ps --quiet)"
docker rm --force datasync-try-api >/dev/null
docker compose --profile '*' down --volumes >/dev/null 2>&1
expect "down --volumes leaves no volume" "" "$(docker volume ls --quiet --filter label=com.docker.compose.project=datasync-try)"
echo "The containers work."
