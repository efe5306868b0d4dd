#!/bin/sh
# Makes `docker compose` work on a Debian machine where it does not yet, for docker/try.sh in CI:
# installs the engine and its plugins from Debian and starts the daemon. Needs root.
#
#   sh tests/docker/engine.sh
set -eu

has_compose() { docker compose version >/dev/null 2>&1 && docker buildx version >/dev/null 2>&1; }

apt_install() { DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; }
command -v dockerd >/dev/null || {
    apt-get update -qq
    apt_install docker.io iptables
}
# The client is a package of its own since trixie.
command -v docker >/dev/null || apt_install docker-cli
has_compose || {
    # Debian has Compose v2 and buildx since trixie. Their programs run on
    # an older Debian too, and the machine's package sources stay as they are.
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
    echo "deb http://deb.debian.org/debian trixie main" >"$work/sources.list"
    cd "$work"
    set -- -qq -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::Etc::preferencesparts=/dev/null -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" \
        -o APT::Sandbox::User=root
    apt-get "$@" update
    apt-get "$@" download docker-compose docker-buildx
    for package in *.deb; do
        dpkg-deb --extract "$package" files
    done
    mkdir -p /usr/local/lib/docker/cli-plugins
    cp files/usr/libexec/docker/cli-plugins/* /usr/local/lib/docker/cli-plugins/
    has_compose
}

docker info >/dev/null 2>&1 && exit
log=${DOCKERD_LOG:-/var/log/dockerd.log}
# setsid: a signal for the caller's terminal is none for the daemon.
setsid dockerd >"$log" 2>&1 </dev/null &
tries=0
until docker info >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -le 30 ] || {
        tail -n 20 "$log" >&2
        echo "The Docker daemon does not start." >&2
        exit 1
    }
    sleep 1
done
