#!/bin/sh
# The first start makes the cluster with a temporary server that listens on its socket alone, as
# the official image does; POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE is required then.
set -eu

if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA"
    chown -R postgres:postgres /var/lib/postgresql
    exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    user=${POSTGRES_USER:-postgres}
    database=${POSTGRES_DB:-$user}
    if [ -n "${POSTGRES_PASSWORD-}" ] && [ -n "${POSTGRES_PASSWORD_FILE-}" ]; then
        echo "error: both POSTGRES_PASSWORD and POSTGRES_PASSWORD_FILE are set (but are exclusive)" >&2
        exit 1
    fi
    password=${POSTGRES_PASSWORD:-$(cat "${POSTGRES_PASSWORD_FILE:-/dev/null}")}
    [ -n "$password" ] || {
        echo "Error: Database is uninitialized and superuser password is not specified." >&2
        exit 1
    }
    printf '%s\n' "$password" >/tmp/password
    initdb --encoding=UTF8 --locale=C.UTF-8 --username="$user" --pwfile=/tmp/password --auth-host=scram-sha-256 --auth-local=trust >/dev/null
    rm /tmp/password
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    pg_ctl --wait start --options="-c listen_addresses='' -p ${PGPORT:-5432}" >/dev/null
    if [ "$database" != postgres ]; then
        psql --quiet --username="$user" --dbname=postgres --set=name="$database" <<'SQL'
CREATE DATABASE :"name";
SQL
    fi
    pg_ctl --wait --mode=fast stop >/dev/null
    echo "PostgreSQL init process complete; ready for start up."
fi
exec "$@" -c listen_addresses='*'
