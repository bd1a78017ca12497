#!/bin/sh
# Installs the package with everything that both servers need into the Python on PATH: docker/install.sh cpu|cuda
# Run from the root of the sources. EXTRAS names the parts of the package (label-studio,cvat, and on a CPU cpu, which is
# its faster runtime; with train it also trains).
# TORCH_INDEX_URL names another package index for torch (CPU builds, other CUDA versions).
# VERSION is what the image says that it has; another version than that of the sources is refused.
set -eu

kind=${1:?usage: docker/install.sh cpu|cuda}
constraints=constraints/$kind.txt
test -f "$constraints" || { echo "there is no $constraints" >&2; exit 2; }
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' icmformer/version.py)
if [ "${VERSION:-$version}" != "$version" ]; then
  echo "VERSION is $VERSION, but the sources are of version $version (icmformer/version.py)" >&2
  exit 2
fi

pip() { python -m pip --disable-pip-version-check --no-input "$@"; }

if [ -n "${TORCH_INDEX_URL:-}" ]; then
  pip install --no-cache-dir --no-deps --constraint "$constraints" --index-url "$TORCH_INDEX_URL" torch
fi
test "$kind" = cpu && runtime=cpu, || runtime=
pip install --no-cache-dir --constraint "$constraints" ".[${EXTRAS:-${runtime}label-studio,cvat}]"
pip check

cd /
scratch=$(mktemp -d) # the cache folder is to be another user's: nothing of root's may lie in it
# There is no GPU while an image is built. Without a home, as at run time, OpenVINO's package neither leaves anything
# there nor reports over the network that it is used.
ICMFORMER_DEVICE=cpu ICMFORMER_CACHE_DIR=$scratch HOME=/nonexistent python -P - <<'CHECK'
import icmformer
import icmformer.applications.ls_backend._wsgi  # noqa: F401  loads the bundled weights and answers a click
import icmformer.applications.serverless.main  # noqa: F401

print("installed: icmformer", icmformer.__version__, icmformer.Engine.from_weights("starter").weights.name)
CHECK
rm -rf "$scratch"
