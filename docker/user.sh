#!/bin/sh
# Makes the user that the servers run as, and the two folders that it writes to: docker/user.sh [ROOT]
# ROOT is a folder with an etc/ of its own that takes the place of /: the tests run this script there.
set -eu

root=${1:-}
id=1000 # deploy/k8s names this number

groupadd ${root:+--prefix "$root"} --gid "$id" icmformer
useradd ${root:+--prefix "$root"} --uid "$id" --gid "$id" --no-create-home --home-dir /nonexistent \
  --shell /usr/sbin/nologin icmformer
install -d -m 755 "$root/var/cache"
install -d -o "$id" -g "$id" -m 755 "$root/var/cache/icmformer"
# For a volume with versions of weights and runs of trainings: it gets the owner of the folder below it.
install -d -m 755 "$root/var/lib"
install -d -o "$id" -g "$id" -m 755 "$root/var/lib/icmformer"
