#!/bin/sh
# Provides the images that the Dockerfile and docker-compose.yml start from. Where the registry
# cannot be reached, they are made from Debian's packages: enough like the official ones to try
# this project's containers, and nothing more.
#
#   sh tests/docker/images/build.sh
#
# Needs a Docker engine; without a registry also root and mmdebstrap. MIRROR names another mirror.
set -eu
cd "$(dirname -- "$0")"

mirror=${MIRROR:-http://deb.debian.org/debian}

# Whether the image is here or can be pulled.
available() {
    docker image inspect "$1" >/dev/null 2>&1 || docker pull --quiet "$1" >/dev/null 2>&1
}

# A root file system of trixie with Python 3.13 (or with more packages), without manuals and caches.
# shellcheck disable=SC2016 # mmdebstrap expands it
debian() {
    mmdebstrap --quiet --variant=minbase --include="$1" \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook='rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* "$1"/var/log/*' \
        trixie - "$mirror"
}

# Imports what `debian` writes; its further arguments are those of `docker import`.
import() {
    packages=$1
    shift
    path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    debian "$packages" | docker import --change "ENV PATH=$path" "$@" >/dev/null
}

command -v mmdebstrap >/dev/null || needs_tool=yes
make() {
    [ -z "${needs_tool-}" ] || {
        echo "The image $1 cannot be pulled, and mmdebstrap is not installed to make it." >&2
        exit 69
    }
    echo "Making $1 from Debian's packages ..."
}

image=python:3.13-slim
available $image || {
    make $image
    import python3,python3-venv,ca-certificates --change 'CMD ["python3"]' - $image
}

image=postgres:18
available $image || {
    make $image
    import postgresql,ca-certificates - datasync-test-postgres
    docker build --quiet --tag $image --file postgres.Dockerfile . >/dev/null
    docker image rm datasync-test-postgres >/dev/null
}

image=prom/prometheus:v3.5.0
available $image || {
    make $image
    import prometheus - datasync-test-prometheus
    docker build --quiet --tag $image --file prometheus.Dockerfile . >/dev/null
    docker image rm datasync-test-prometheus >/dev/null
}
