#!/bin/sh
# Tries datasync_dag.py with CeleryExecutor on this machine: eight accounts, one sandbox and one
# database each. Measures the throughput with 1, 2 and 4 workers, then kills one of two workers in
# the middle of its tasks, and compares every account's table with its feed.
#
#   docker build --tag datasync-pipeline .
#   sh examples/airflow/try.sh                  about 15 minutes
#   WORKERS="2" sh examples/airflow/try.sh      measure with two workers alone
#
# Needs Docker with the images datasync-pipeline and postgres:18 (tests/docker/images/build.sh), Redis
# (Debian: redis-server) and Python 3.10 to 3.13. Airflow is installed into AIRFLOW_VENV (default
# .run/airflow-venv). Everything else it makes is removed at the end.
set -eu
cd "$(dirname -- "$0")/../.."

accounts="a1 a2 a3 a4 a5 a6 a7 a8"
events=25000
venv=${AIRFLOW_VENV:-$PWD/.run/airflow-venv}
work=$(mktemp -d)
containers=
processes=

finish() {
    for process in $processes; do
        kill -s KILL -- "-$process" 2>/dev/null || true
    done
    # shellcheck disable=SC2086 # several names
    docker rm --force --volumes $containers >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
fail() {
    echo "FAILED: $*" >&2
    tail -n 30 "$work"/*.log >&2
    exit 1
}

# -- What the DAG is given: databases, sandboxes, Redis, connections --------------------------
run_container() {
    name=datasync-airflow-$1
    shift
    containers="$containers $name"
    docker run --detach --name "$name" "$@" >/dev/null
}
address() { docker inspect --format '{{.NetworkSettings.IPAddress}}' "datasync-airflow-$1"; }
sql() { docker exec --env PGOPTIONS=-cclient_min_messages=warning datasync-airflow-postgres psql --quiet --no-align --tuples-only --username airflow --dbname "$1" --command "$2"; }

run_container postgres --env POSTGRES_USER=airflow --env POSTGRES_PASSWORD=airflow --env POSTGRES_DB=airflow postgres:18
seed=0
for account in $accounts; do
    seed=$((seed + 1))
    # Five pages, one in six seconds: 24 seconds at the rate limit, which is per key as the API's.
    run_container "$account" --init --no-healthcheck --env DATASYNC_SANDBOX_KEY="key-of-$account" \
        --entrypoint datasync-sandbox datasync-pipeline \
        api --host 0.0.0.0 --events $events --seed $seed --limit 1 --window 6
done
warehouse=$(address postgres)
until docker exec datasync-airflow-postgres pg_isready --quiet --host 127.0.0.1 --username airflow; do sleep 0.5; done

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
# start NAME COMMAND...: in a process group of its own, with its output in a log.
start() {
    output=$work/$1.log
    shift
    setsid "$@" >"$output" 2>&1 </dev/null &
    processes="$processes $!"
}
redis=$(free_port)
start redis redis-server --port "$redis" --bind 127.0.0.1 --save '' --dir "$work"

if [ ! -x "$venv/bin/airflow" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --quiet 'apache-airflow[celery,postgres]==3.3.2' 'celery<5.7'
fi
PATH=$venv/bin:$PATH
api=$(free_port)
export AIRFLOW_HOME="$work/airflow" AIRFLOW__CORE__DAGS_FOLDER="$PWD/examples/airflow" \
    AIRFLOW__CORE__LOAD_EXAMPLES=False AIRFLOW__CORE__EXECUTOR=CeleryExecutor \
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN="postgresql+psycopg2://airflow:airflow@$warehouse/airflow" \
    AIRFLOW__CELERY__RESULT_BACKEND="db+postgresql+psycopg2://airflow:airflow@$warehouse/airflow" \
    AIRFLOW__CELERY__BROKER_URL="redis://127.0.0.1:$redis/0" \
    AIRFLOW__CORE__EXECUTION_API_SERVER_URL="http://127.0.0.1:$api/execution/" \
    AIRFLOW__API_AUTH__JWT_SECRET=only-for-this-try-of-the-example-dag AIRFLOW__API__SECRET_KEY=only-for-this-try
# A lost worker is noticed after seconds and not after five minutes, and so is the next try.
export AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT=10 AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC=2 \
    AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL=2 AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY=5
export DATASYNC_ACCOUNTS="$accounts" DATASYNC_SCHEDULE='' \
    AIRFLOW_CONN_DATASYNC_WAREHOUSE="{\"conn_type\": \"generic\", \"host\": \"$warehouse\", \"port\": 5432, \"login\": \"airflow\", \"password\": \"airflow\"}"
for account in $accounts; do
    export "AIRFLOW_CONN_DATASYNC_$(echo "$account" | tr '[:lower:]' '[:upper:]')={\"conn_type\": \"generic\", \"host\": \"http://$(address "$account"):8765/api/v1\", \"password\": \"key-of-$account\"}"
done

airflow db migrate >"$work/migrate.log" 2>&1 || fail "airflow db migrate"
start api-server airflow api-server --host 127.0.0.1 --port "$api" --workers 1
start scheduler airflow scheduler
start dag-processor airflow dag-processor
tries=0
until [ "$(sql airflow "SELECT count(*) FROM dag WHERE dag_id = 'datasync'")" = 1 ]; do
    tries=$((tries + 1))
    [ $tries -lt 120 ] || fail "the DAG is not there after two minutes"
    sleep 1
done

# -- Runs ------------------------------------------------------------------------------------
# start_worker NAME SLOTS
start_worker() {
    start "$1" airflow celery worker --celery-hostname "$1@%h" --concurrency "$2" --skip-serve-logs
    worker=${processes##* }
    tries=0
    until grep -qs 'ready\.' "$work/$1.log"; do
        tries=$((tries + 1))
        [ $tries -lt 120 ] || fail "worker $1 does not start"
        sleep 0.5
    done
}
empty_databases() {
    for account in $accounts; do
        sql airflow "DROP DATABASE IF EXISTS events_$account WITH (FORCE)"
        sql airflow "CREATE DATABASE events_$account"
        sql "events_$account" "CREATE SCHEMA meltano"
    done
}
# tasks RUN STATE...: how many tasks of the run are in one of the states.
tasks() {
    run_id=$1
    shift
    sql airflow "SELECT count(*) FROM task_instance WHERE run_id = '$run_id' AND state IN ('$(echo "$@" | sed "s/ /', '/g")')"
}
run_dag() {
    airflow dags trigger datasync --run-id "$1" >"$work/trigger.log" 2>&1 || fail "airflow dags trigger"
}
wait_for_run() {
    tries=0
    until [ "$(tasks "$1" success)" = 8 ]; do
        tries=$((tries + 1))
        [ $tries -lt 900 ] || fail "run $1 is not finished after 15 minutes: $(sql airflow "SELECT task_id, state, try_number FROM task_instance WHERE run_id = '$1'")"
        [ "$(tasks "$1" failed upstream_failed)" = 0 ] || fail "a task of $1 failed"
        sleep 1
    done
}
compare() {
    seed=0
    for account in $accounts; do
        seed=$((seed + 1))
        printf '  %s: ' "$account"
        docker run --rm --interactive --env DB_HOST="$warehouse" --env DB_PORT=5432 --env DB_USER=airflow --env DB_PASSWORD=airflow \
            --env DB_NAME="events_$account" --entrypoint python datasync-pipeline - --events $events --seed $seed \
            <tests/docker/compare.py || fail "the table of $account is not its feed"
        overlapping=$(sql "events_$account" "
            WITH scans AS (SELECT sync_id, min(requested_at) AS started, max(received_at) AS ended FROM pages GROUP BY sync_id)
            SELECT count(*) FROM scans AS a JOIN scans AS b ON a.sync_id < b.sync_id AND a.started < b.ended AND b.started < a.ended")
        [ "$overlapping" = 0 ] || fail "$account was scanned by two loads at once"
    done
}
stop_workers() {
    for process in $workers; do
        kill -TERM "$process" 2>/dev/null || true
    done
    for process in $workers; do
        wait "$process" || true
    done
    workers=
}

airflow dags unpause datasync >"$work/unpause.log" 2>&1 || fail "airflow dags unpause"
echo "| workers (one slot each) | seconds | events per second |"
echo "|---|---|---|"
workers=
for count in ${WORKERS:-1 2 4}; do
    empty_databases
    for number in $(seq "$count"); do
        start_worker "worker$count-$number" 1
        workers="$workers $worker"
    done
    run_dag "workers-$count"
    wait_for_run "workers-$count"
    sql airflow "
        SELECT format('| %s | %s | %s |', $count, round(seconds), round(8 * $events / seconds))
        FROM (SELECT extract(epoch FROM max(end_date) - min(start_date)) AS seconds
              FROM task_instance WHERE run_id = 'workers-$count')"
    compare >"$work/compare.log" || fail "compare"
    stop_workers
done

echo "Two workers with four slots each; one is killed with SIGKILL in the middle of its tasks:"
empty_databases
start_worker lost 4
lost=$worker
start_worker kept 4
workers=$worker
run_dag killed
until [ "$(tasks killed running)" = 8 ]; do sleep 0.5; done
for account in $accounts; do
    until [ "$(sql "events_$account" 'SELECT count(*) FROM pages' 2>/dev/null || echo 0)" -ge 1 ]; do sleep 0.5; done
done
kill -s KILL -- "-$lost"
wait_for_run killed
sql airflow "SELECT format('  %s: try %s, on %s', task_id, try_number, hostname) FROM task_instance WHERE run_id = 'killed' ORDER BY task_id"
refused=$(grep -rlE 'code 75' "$AIRFLOW_HOME/logs/dag_id=datasync/run_id=killed" | wc -l)
echo "  tries refused because the account's load was still running: $refused"
compare
stop_workers
echo "Every account's table equals its feed, and none was scanned by two loads at once."
