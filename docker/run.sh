#!/bin/sh
# `sh run-ingestion.sh --docker`: the same flow with Docker Compose. Builds the images, starts the
# database and the dashboard, loads, and leaves both running. Without an API key the events come
# from the local sandbox. The load is the Compose service `ingestion`, so `docker compose ps`, `logs`
# and `stop` include it; a signal to this script stops it too, and its exit code is returned.
set -eu
cd "$(dirname -- "$0")/.."

fail() {
    echo "$2" >&2
    exit "$1"
}

INGESTION_OPTIONS=
events=
stop=no
while [ $# -gt 0 ]; do
    case $1 in
    --docker) ;;
    --full-refresh | --no-restart | --verbose) INGESTION_OPTIONS="$INGESTION_OPTIONS $1" ;;
    --stop-sandbox) stop=yes ;;
    --events=*) events=${1#*=} ;;
    --events)
        [ $# -gt 1 ] || fail 2 "--events needs a number."
        events=$2
        shift
        ;;
    *) fail 2 "$1 does not go with --docker. Options of the sandbox other than --events are read from SANDBOX_OPTIONS, for example: SANDBOX_OPTIONS='--limit 100' sh run-ingestion.sh --docker" ;;
    esac
    shift
done
export INGESTION_OPTIONS
[ -z "$events" ] || export SANDBOX_EVENTS="$events"

command -v docker >/dev/null ||
    fail 2 "Docker is not installed. Without --docker, Python is enough: sh run-ingestion.sh"
docker compose version >/dev/null 2>&1 ||
    fail 2 "Docker has no Compose plugin: install docker-compose-plugin."
docker version >/dev/null || fail 1 "The Docker engine cannot be used. Start it, or use an account that may (the group docker)."

if [ $stop = yes ]; then
    exec docker compose --profile sandbox --profile metrics stop
fi

# Compose alone reads .env.
config=$(docker compose config ingestion) || fail 2 "Compose cannot read its configuration: correct .env or the environment."
case $config in
*'DB_HOST: localhost'* | *'DB_HOST: 127.'* | *'API_BASE_URL: http://localhost'* | *'API_BASE_URL: http://127.'*)
    fail 2 "DB_HOST or API_BASE_URL is an address of this machine, which in a container is the container itself. Use the name host.docker.internal, and let the server there listen for the containers."
    ;;
esac
sandbox=
case $config in
*'DB_HOST: postgres
'*) ;;
*'API_KEY: ""'*'API_KEY_FILE: ""'* | *'API_KEY: put-your-api-key-here'*'API_KEY_FILE: ""'*)
    fail 2 "API_KEY is not set, and sample events are loaded into the project's own database alone: set API_KEY, or empty DB_HOST."
    ;;
esac
case $config in
*'API_KEY: ""'*'API_KEY_FILE: ""'* | *'API_KEY: put-your-api-key-here'*'API_KEY_FILE: ""'*) sandbox=sandbox ;;
*) [ -z "$events" ] || fail 2 "--events is an option of the sandbox, but API_KEY is set: events come from the API. Empty API_KEY to load sample events: API_KEY= sh run-ingestion.sh --docker --events $events" ;;
esac

running=$(docker compose ps --quiet --status running ingestion)
[ -z "$running" ] || fail 75 "A load is running already. Follow it with \`docker compose logs --follow ingestion\`, or stop it with \`docker compose stop ingestion\`."

child=
started=no
# shellcheck disable=SC2317,SC2329 # run by the traps
interrupt() {
    trap '' HUP INT TERM
    [ "$started" = no ] || docker compose stop ingestion || true
    kill "$child" 2>/dev/null || true
    exit "$1"
}
trap 'interrupt 129' HUP
trap 'interrupt 130' INT
trap 'interrupt 143' TERM
# In the background: a signal is handled at once and not when the command has ended.
run() {
    "$@" &
    child=$!
    wait "$child"
}

# What Compose does in detail is for a terminal; without one, errors alone are shown.
progress="--progress quiet"
[ ! -t 2 ] || progress=
[ -z "$sandbox" ] || echo "API_KEY is not set: loading sample events from the local sandbox."
# shellcheck disable=SC2086 # several words, or none
{
    run docker compose $progress build ingestion dashboard
    run docker compose $progress up --detach --wait dashboard $sandbox ||
        fail 1 "The services do not start. If a port is in use, set DB_PORT or DASHBOARD_PORT to a free one; for everything else see \`docker compose logs\`."
    echo "Dashboard: http://$(docker compose port dashboard 8501)"
    docker compose rm --force ingestion >/dev/null 2>&1
    started=yes
    # Not recreated: where two runs start at once, both follow the one load.
    run docker compose $progress up --detach --no-deps --no-recreate ingestion
}
container=$(docker compose ps --all --quiet ingestion)
run docker logs --follow "$container"
exit "$(docker wait "$container")"
