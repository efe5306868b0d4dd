#!/bin/sh
# Builds the images without Docker, with buildah on a base made by debootstrap,
# and tries them: where a CI has no Docker daemon and no registry, this still
# proves that the Dockerfile builds and that what it builds works.
#
#   sudo sh docker/build-with-buildah.sh              build both, then try them
#   sudo sh docker/build-with-buildah.sh --no-try     build only
#
# Needs root, buildah and debootstrap (Debian: apt install buildah debootstrap).
# The images are localhost/datasync-pipeline and localhost/datasync-dashboard, in a
# storage of their own under $WORK (default .run/buildah), with the base.
# MIRROR names another Debian mirror. This machine's pip index and certificates
# are handed to the build as secrets, so a mirror of the index works here too.
set -eu
cd "$(dirname -- "$0")/.."

try=yes
[ "${1-}" = --no-try ] && try=no
work=${WORK:-$PWD/.run/buildah}
mirror=${MIRROR:-http://deb.debian.org/debian}
suite=${SUITE:-bookworm}
base=localhost/datasync-base:$suite

for tool in buildah debootstrap; do
    command -v "$tool" >/dev/null || {
        echo "$tool is not installed." >&2
        exit 69
    }
done
mkdir -p "$work"

b() { buildah --root "$work/storage" --runroot "$work/runroot" --storage-driver "${DRIVER:-vfs}" "$@"; }

if ! b inspect --type image "$base" >/dev/null 2>&1; then
    echo "Making a base of Debian $suite ..."
    rm -rf "$work/rootfs"
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates \
        "$suite" "$work/rootfs" "$mirror" >"$work/debootstrap.log"
    # As the slim images do: no package lists, no packages, no manuals, no translations.
    rm -rf "$work"/rootfs/var/cache/apt/* "$work"/rootfs/var/lib/apt/lists/* \
        "$work"/rootfs/usr/share/doc/* "$work"/rootfs/usr/share/man/* \
        "$work"/rootfs/usr/share/locale/* "$work"/rootfs/var/log/*
    tar --create --file "$work/rootfs.tar" --directory "$work/rootfs" --one-file-system .
    rm -rf "$work/rootfs"
    container=$(b from scratch)
    b add --quiet "$container" "$work/rootfs.tar" /
    b config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --cmd bash "$container"
    b commit --quiet --rm "$container" "$base"
    rm "$work/rootfs.tar"
fi

# Of pip's configuration only where the index is: its paths are those of this machine.
python3 -m pip config list 2>/dev/null |
    sed -n "s/^[^.]*\.\(index-url\|trusted-host\)='\(.*\)'\$/\1 = \2/p" |
    sort -u | sed '1i [global]' >"$work/pip.conf"
certificates=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}

for target in pipeline dashboard; do
    echo "Building $target ..."
    b bud --isolation chroot --format docker --pull-never \
        --build-arg BASE_IMAGE="$base" --target "$target" \
        --secret "id=pip.conf,src=$work/pip.conf" --secret "id=ca.pem,src=$certificates" \
        --tag "localhost/datasync-$target" --file Dockerfile . >"$work/$target.log" 2>&1 || {
        tail -n 40 "$work/$target.log" >&2
        exit 1
    }
done

for image in base:"$suite" pipeline dashboard; do
    container=$(b from --pull-never "localhost/datasync-$image")
    root=$(b mount "$container")
    printf '%-18s %4s MB\n' "datasync-$image" "$(du -sm --one-file-system "$root" | cut -f1)"
    b rm "$container" >/dev/null
done

if [ "$try" = yes ]; then
    WORK=$work sh docker/try-with-buildah.sh
fi
