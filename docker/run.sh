#!/bin/sh
# `sh run-ingestion.sh --docker`: the same flow with Docker Compose. Starts the
# database and the dashboard, loads in the foreground, and leaves both running.
# Without an API_KEY the sandbox's profile is on. Other options go to the load.
set -eu
cd "$(dirname -- "$0")/.."

# The option itself, wherever it stands, goes no further.
for option; do
    shift
    [ "$option" = --docker ] || set -- "$@" "$option"
done

command -v docker >/dev/null || {
    echo "Docker is not installed; without --docker nothing but Python is needed." >&2
    exit 2
}
docker compose version >/dev/null 2>&1 || {
    echo "Docker has no Compose plugin: install docker-compose-plugin." >&2
    exit 2
}

# What the environment or else .env says: $1 is the name.
setting() {
    value=$(printenv "$1" || true)
    if [ -z "$value" ] && [ -f .env ]; then
        value=$(sed -n "s/^[[:space:]]*\(export[[:space:]]\{1,\}\)\{0,1\}$1=[\"']\{0,1\}\([^\"']*\)[\"']\{0,1\}[[:space:]]*\$/\2/p" .env | tail -n 1)
    fi
    printf '%s' "$value"
}

profile=
key=$(setting API_KEY)
if [ -z "$key" ] || [ "$key" = put-your-api-key-here ]; then
    echo "API_KEY is not set: the sandbox stands in for the API, with made-up events."
    # Empty in the environment wins over a placeholder in .env.
    API_KEY='' API_BASE_URL=''
    export API_KEY API_BASE_URL
    profile=--profile=sandbox
    if [ -z "$(setting DB_PASSWORD)" ]; then
        # For made-up events on a loopback port; for real ones Compose asks for a password.
        export DB_PASSWORD=sandbox
    fi
fi

# All images before anything starts: the sandbox runs from that of the load, and where it is
# not built yet, Compose would look for it in a registry.
# shellcheck disable=SC2086 # no profile is no word
docker compose $profile build ingestion dashboard
# shellcheck disable=SC2086
docker compose $profile up --detach --wait postgres dashboard ${profile:+sandbox}
port=$(setting DASHBOARD_PORT)
echo "Dashboard: http://127.0.0.1:${port:-8501}"
# In its own container, in the foreground: Ctrl-C reaches it, and its exit code is ours.
# shellcheck disable=SC2086
exec docker compose $profile run --rm ingestion --bulk "$@"
