#!/usr/bin/env bash
# Builds the pinned development tools of one tools/ module and prints the
# folder that holds them. Kept outside the checkout, keyed by the module's
# content, so that a second call is free.
#   scripts/tools.sh charts|crd|gen|lint
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
set_name=${1:?usage: tools.sh charts|crd|gen|lint}
src=$root/tools/$set_name
[ -f "$src/go.mod" ] || { echo "tools.sh: no such tool set: $set_name (have: $(ls "$root/tools"))" >&2; exit 2; }
key=$(cat "$src/go.mod" "$src/go.sum" | cat - <(go version) | sha256sum | cut -c1-16)
out=${WEIR_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/weir}/tools/$set_name-$key
if [ ! -f "$out/.complete" ]; then
  echo "building the $set_name tools, once (a few minutes) ..." >&2
  mkdir -p "$out"
  (cd "$src" && GOWORK=off GOFLAGS=-buildvcs=false go build -o "$out/" tool)
  touch "$out/.complete"
fi
echo "$out"
