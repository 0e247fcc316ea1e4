#!/usr/bin/env bash
# Prints a folder that holds google/api/*.proto from the pinned wheel,
# fetching it with pip on first use.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck disable=SC1091
. "$root/build/googleapis.pin"
# shellcheck disable=SC2154
cache=${WEIR_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/weir}/googleapis-$version
if [ ! -f "$cache/.complete" ]; then
  tmp=$(mktemp -d)
  trap 'rm -rf "$tmp"' EXIT
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: -d "$tmp" "$package==$version" >&2 || {
    echo "googleapis.sh: could not download $package $version with pip; check the network or pip's index" >&2; exit 1; }
  # shellcheck disable=SC2154
  echo "$sha256  $tmp/$file" | sha256sum --check --quiet || { echo "googleapis.sh: $file does not have the pinned SHA-256" >&2; exit 1; }
  mkdir -p "$cache"
  python3 - "$tmp/$file" "$cache" <<'PY'
import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as z:
    for n in z.namelist():
        if n.startswith(("google/api/", "google/rpc/")) and n.endswith(".proto"):
            z.extract(n, sys.argv[2])
PY
  touch "$cache/.complete"
fi
echo "$cache"
