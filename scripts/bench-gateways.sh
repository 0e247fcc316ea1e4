#!/usr/bin/env bash
# make bench-gateways: how long a changed route takes to be served, in Weir and in
# Envoy Gateway, which is built from its public Go module (about ten minutes the
# first time on two cores; kept in the user's cache).
#   ROUTES   routes in the comparison (default 20: Envoy Gateway's standalone
#            mode reads every object anew on each change, some 0.2 s each)
#   CHANGES  timed changes in each condition (default 8)
#   ALONE    routes of the second run, of Weir alone (default 5000)
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/weir/bench
version=$(awk '$1 == "github.com/envoyproxy/gateway" || $2 == "github.com/envoyproxy/gateway" {print $NF}' bench/envoygateway/go.mod)
peer=$cache/envoy-gateway-$version
if [ ! -x "$peer" ]; then
  echo "building Envoy Gateway $version (about ten minutes) ..." >&2
  mkdir -p "$cache"
  (cd bench/envoygateway && GOWORK=off nice -n 5 go build -o "$peer.new" .)
  mv "$peer.new" "$peer"
fi
make --no-print-directory build >/dev/null
gateways=$(mktemp)
trap 'rm -f "$gateways"' EXIT
go build -o "$gateways" ./bench/cmd/gateways
envoy=${ENVOY_BIN:-$(command -v envoy || ls "$cache"/../envoy/*/envoy)}
"$gateways" -weir bin/weir -envoy-gateway "$peer" -envoy "$envoy" -routes "${ROUTES:-20}" -changes "${CHANGES:-8}" \
  -table docs/bench/gateways.md -svg docs/bench/gateways.svg
"$gateways" -weir bin/weir -envoy "$envoy" -routes "${ALONE:-5000}" -changes "${CHANGES_ALONE:-100}" \
  -table docs/bench/routes.md -svg docs/bench/routes.svg
