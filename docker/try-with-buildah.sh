#!/bin/sh
# Tries the images that docker/build-with-buildah.sh has built: loads made-up events
# from the sandbox in one container into a database on this machine, stops the load
# half-way as `docker stop` does, goes on in a container with a read-only root file
# system, and compares what is in the table with what the sandbox serves.
#
# Needs root, and the project's own installation (sh run-ingestion.sh or
# python3 scripts/setup.py) for the database. Ports are free ones; all is removed.
set -eu
cd "$(dirname -- "$0")/.."

work=${WORK:-$PWD/.run/buildah}
events=40000
bin=$PWD/.venv/bin
[ -x "$bin/datasync-sandbox" ] || {
    echo "Install the project first: python3 scripts/setup.py" >&2
    exit 69
}

b() { buildah --root "$work/storage" --runroot "$work/runroot" --storage-driver "${DRIVER:-vfs}" "$@"; }
fail() {
    echo "FAILED: $*" >&2
    tail -n 20 "$work"/try-*.log >&2 || true
    exit 1
}

rm -rf "$work/sandbox" "$work/state" "$work"/try-*.log
mkdir -p "$work/state"
# As a new volume has it: the image's directory with its owner.
chown 10001:10001 "$work/state"
chmod 700 "$work/state"

containers=
children=
# Ends a process and all below it: a container's own is a grandchild of what is started here.
end() {
    for below in $(pgrep -P "$1" || true); do
        end "$below"
    done
    kill "$1" 2>/dev/null || true
}
finish() {
    for child in $children; do
        end "$child"
    done
    "$bin/datasync-sandbox" down --dir "$work/sandbox" >/dev/null 2>&1 || true
    # shellcheck disable=SC2086 # several names
    [ -z "$containers" ] || b rm $containers >/dev/null 2>&1 || true
}
trap finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

pipeline=$(b from --pull-never localhost/datasync-pipeline)
dashboard=$(b from --pull-never localhost/datasync-dashboard)
containers="$pipeline $dashboard"

# A number that nobody listens on now.
free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

"$bin/datasync-sandbox" up --db-only --db-port 0 --dir "$work/sandbox" >/dev/null
set -a
# shellcheck source=/dev/null
. "$work/sandbox/env"
set +a
port=$(free_port)
# As `docker compose --profile sandbox` does; isolated by chroot, a container has the host's network.
b run --isolation chroot --user 10001:10001 "$pipeline" -- \
    /app/.venv/bin/datasync-sandbox api --host 0.0.0.0 --port "$port" \
    --events "$events" --limit 2 --window 5 >"$work/try-sandbox.log" 2>&1 &
children=$!

# The environment of a container of the pipeline, in words for `env`.
set -- "API_BASE_URL=http://127.0.0.1:$port/api/v1" API_KEY=sandbox-key \
    "DB_HOST=$DB_HOST" "DB_PORT=$DB_PORT" "DB_USER=$DB_USER" "DB_PASSWORD=$DB_PASSWORD" "DB_NAME=$DB_NAME" \
    HOME=/tmp MELTANO_DATABASE_URI=sqlite:////app/.run/meltano.db PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 LANG=C.UTF-8

sql() { "$bin/datasync-sandbox" db psql --dir "$work/sandbox" -- --no-align --tuples-only --command "$1" 2>/dev/null; }

echo "1. The image's command, by buildah; stopped half-way with SIGTERM."
b run --isolation chroot --user 10001:10001 --volume "$work/state:/app/.run" "$pipeline" -- \
    env "$@" /app/docker/entrypoint.sh --bulk >"$work/try-1.log" 2>&1 &
running=$!
children="$children $running"
waited=0
until [ "$(sql 'SELECT count(*) FROM events' || echo 0)" -ge 10000 ] 2>/dev/null; do
    kill -0 "$running" 2>/dev/null || fail "the load ended before it was stopped"
    [ "$waited" -lt 120 ] || fail "nothing was loaded within two minutes"
    waited=$((waited + 1))
    sleep 1
done
# Its own process, as an init process would reach it: the one that has been told this address,
# and not that of another container on this machine.
supervisor=
for pid in $(pgrep -u 10001 -f 'datasync-ingest --bulk' || true); do
    if tr '\0' '\n' <"/proc/$pid/environ" | grep -qxF "$1"; then
        supervisor=$pid
        break
    fi
done
[ -n "$supervisor" ] || fail "the process of the load is not found"
kill -TERM "$supervisor"
code=0
wait "$running" || code=$?
[ "$code" -eq 143 ] || fail "exit code $code, not 143, after SIGTERM"
stopped_at=$(sql 'SELECT count(*) FROM events')
echo "   stopped at $stopped_at events, exit code 143"

echo "2. Health, as HEALTHCHECK asks."
b run --isolation chroot --user 10001:10001 "$pipeline" -- env "$@" /app/.venv/bin/datasync-monitor check |
    sed 's/^/   /'

echo "3. The rest, in a read-only root file system."
root=$(b mount "$pipeline")
# shellcheck disable=SC2016 # the inner shell expands it
unshare --mount --propagation private sh -eu -c '
    root=$1 state=$2
    shift 2
    mount --bind "$root" "$root"
    mount --bind "$state" "$root/app/.run"
    mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
    mount -t tmpfs -o uid=10001,gid=10001,mode=700 tmpfs "$root/app/.meltano/run"
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount -o remount,ro,bind "$root"
    ! touch "$root/app/x" 2>/dev/null || exit 99
    exec chroot --userspec=10001:10001 "$root" env --chdir=/app "$@" /app/docker/entrypoint.sh --bulk
' sh "$root" "$work/state" PATH="$PATH" "$@" >"$work/try-3.log" 2>&1 || fail "the second load ended with $?"
sed 's/^/   /' "$work/try-3.log" | tail -n 12

echo "4. Every event, once."
"$bin/datasync-sandbox" feed --events "$events" | python3 -c '
import json, sys
print("\n".join(sorted(json.loads(line)["id"] for line in sys.stdin)))' >"$work/expected"
sql 'SELECT id FROM events' | LC_ALL=C sort >"$work/loaded"
cmp "$work/expected" "$work/loaded" || fail "the table is not the feed"
stats=$(python3 -c 'import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())' \
    "http://127.0.0.1:$port/__sandbox__/stats")
echo "   $(wc -l <"$work/loaded") rows; $(echo "$stats" | python3 -c '
import json, sys
print(json.load(sys.stdin)["requests"])') requests for $((events / 5000)) pages"

echo "5. The dashboard answers."
port=$(free_port)
b run --isolation chroot --user 10001:10001 "$dashboard" -- env "$@" \
    /app/.venv/bin/datasync-monitor web --host 127.0.0.1 --port "$port" >"$work/try-dashboard.log" 2>&1 &
children="$children $!"
python3 - "http://127.0.0.1:$port/_stcore/health" <<'PYTHON' || fail "the dashboard does not answer"
import sys, time, urllib.error, urllib.request

for _ in range(60):
    try:
        print("  ", urllib.request.urlopen(sys.argv[1], timeout=2).read().decode())
        break
    except (urllib.error.URLError, OSError):
        time.sleep(1)
else:
    sys.exit(1)
PYTHON
echo "The images work."
