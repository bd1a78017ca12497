#!/bin/sh
# Makes a stand-in for the base of both images where no registry can be reached: docker/base.sh
# It is Debian with its own Python, set up as in the image that FROM names, and has that name in the storage of podman
# and buildah; the patch release of its Python is another one.
#   docker/base.sh && buildah bud --isolation chroot --pull=never -f Dockerfile.cpu -t icmformer:cpu .
# Needs root, debootstrap and podman. DEBIAN_MIRROR names a mirror other than debootstrap's own.
set -eu

name=$(sed -n 's/^FROM //p' "$(dirname "$0")/../Dockerfile.cpu")
root=$(mktemp -d)
chmod 755 "$root" # it becomes /, which others than root enter too
trap 'rm -rf "$root"' EXIT
trap 'exit 1' HUP INT TERM

debootstrap --variant=minbase --include=ca-certificates,netbase,python3-pip,tzdata \
  "${name##*-}" "$root" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"}

rm "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
ln -s python3 "$root/usr/bin/python"
# Left out of Debian's slim images, too.
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/* "$root"/usr/share/man/* \
  "$root"/usr/share/locale/*

tar -C "$root" -c . |
  podman import --quiet --change 'ENV LANG=C.UTF-8' --change 'CMD ["python3"]' - "docker.io/library/$name"
