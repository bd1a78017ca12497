#!/usr/bin/env bash
# Puts the function into a CVAT on this machine: builds the base image, then deploys with nuctl.
set -euo pipefail

usage() {
  cat <<'HELP'
usage: serverless/deploy.sh cpu|gpu [options]

Builds the base image and deploys the function into the CVAT of this machine (Docker). What the steps need is checked
before the first (not by --dry-run).

  --network NAME    CVAT's Docker network (cvat_cvat)
  --project NAME    Nuclio project (cvat)
  --env NAME=VALUE  setting of the function (docs/cvat.md); may be given several times
  --box             CVAT's page offers to start with a box; it does so at first, and then a click alone does nothing
  --port N          a port of this machine that stays the same when it is restarted (1024 to 65535, and free)
  --no-build        use the base image that is there
  --image NAME      another base image, made from ours (weights of your own: docs/cvat.md); implies --no-build
  --dry-run         print the commands, run none
  -h, --help        this text

The environment's TORCH_INDEX_URL names the package index that torch comes from (CPU builds, other CUDA versions).
HELP
}

fail() {
  echo "error: $1" >&2
  exit 1
}

kind="" other="" network=cvat_cvat project=cvat build=yes dry=no box=no port=""
settings=()
while [ $# -gt 0 ]; do
  case "$1" in
    cpu | gpu)
      [ -z "$kind" ] || [ "$kind" = "$1" ] || fail "say cpu or gpu, not both"
      kind=$1
      ;;
    --network) network=${2:?--network needs a name}; shift ;;
    --project) project=${2:?--project needs a name}; shift ;;
    --env)
      case "${2:-}" in
        ?*=*) settings+=(--env "$2"); shift ;;
        *) fail "--env needs NAME=VALUE, got '${2:-}'" ;;
      esac
      ;;
    --box) box=yes ;;
    --port)
      case "${2:-}" in
        [1-9][0-9][0-9][0-9] | [1-6][0-9][0-9][0-9][0-9]) port=$2; shift ;;
        *) fail "--port needs a number from 1024 to 65535, got '${2:-}'" ;;
      esac
      [ "$port" -ge 1024 ] && [ "$port" -le 65535 ] || fail "--port needs a number from 1024 to 65535, got '$port'"
      ;;
    --image) other=${2:?--image needs a name}; build=no; shift ;;
    --no-build) build=no ;;
    --dry-run) dry=yes ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; fail "unknown option: $1" ;;
  esac
  shift
done
[ -n "$kind" ] || { usage >&2; fail "say cpu or gpu"; }

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
file=$here/function.yaml
if [ "$kind" = gpu ]; then file=$here/function-gpu.yaml; fi
image=${other:-$(sed -n 's/^ *baseImage: *//p' "$file")}

run() {
  printf '+'
  printf ' %q' "$@"
  echo
  if [ "$dry" = no ]; then "$@"; fi
}

if [ "$dry" = no ]; then
  command -v docker >/dev/null || fail "there is no docker on PATH"
  docker info >/dev/null 2>&1 || fail "docker does not answer: is it running, and may you use it?"
  command -v nuctl >/dev/null || fail "there is no nuctl on PATH; take the version of CVAT's Nuclio (docs/cvat.md)"
  docker network inspect "$network" >/dev/null 2>&1 ||
    fail "there is no Docker network $network: is CVAT up? (docker network ls; --network)"
  if [ "$kind" = gpu ]; then
    case "$(docker info 2>/dev/null)" in
      *[Nn]vidia*) ;;
      *) fail "docker has no nvidia runtime: install the NVIDIA container toolkit, or deploy cpu" ;;
    esac
  fi
fi

if [ "$build" = yes ]; then
  run docker build --file "$root/Dockerfile.$kind" --tag "$image" \
    ${TORCH_INDEX_URL:+--build-arg "TORCH_INDEX_URL=$TORCH_INDEX_URL"} "$root"
elif [ "$dry" = no ]; then
  docker image inspect "$image" >/dev/null 2>&1 || fail "there is no image $image; leave --no-build out"
fi

if [ "$dry" = yes ] || ! nuctl get project "$project" --platform local >/dev/null 2>&1; then
  run nuctl create project "$project" --platform local
fi

# The code is in the image: only the function's file is sent along.
stage=$(mktemp -d)
[ "$dry" = yes ] || trap 'rm -rf "$stage"' EXIT
awk -v image="$image" -v box="$box" -v port="$port" '
  { indent = $0; sub(/[^ ].*/, "", indent) }
  /^ *baseImage:/ { $0 = indent "baseImage: " image }
  { print }
  box == "yes" && /^ *min_neg_points:/ { print indent "startswith_box_optional: \"true\"" }
  port != "" && /^ *maxRequestBodySize:/ { print indent "port: " port }
' "$file" >"$stage/function.yaml"
if [ "$dry" = yes ]; then
  changes=$(diff "$file" "$stage/function.yaml" | sed -n 's/^\([<>]\)/#   \1/p' || true)
  echo "# $stage/function.yaml is ${file##*/}$([ -n "$changes" ] && echo ", changed:" || echo " as it is")"
  [ -z "$changes" ] || echo "$changes"
fi
run nuctl deploy --project-name "$project" --path "$stage" --file "$stage/function.yaml" --platform local \
  ${settings[@]+"${settings[@]}"} --platform-config "{\"attributes\": {\"network\": \"$network\"}}"
run nuctl get function icmformer --platform local
[ "$dry" = yes ] || echo "Deployed. To check that it works, see docs/cvat.md. In CVAT: reload the page, AI Tools (the magic wand), Interactors, iCMFormer."
