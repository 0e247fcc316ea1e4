#!/usr/bin/env bash
# make test: everything that must hold on every commit. Arguments go to go test.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

scripts/prerequisites.sh

step "generated code is up to date"
before=$(git status --porcelain | sort)
scripts/generate.sh
after=$(git status --porcelain | sort)
if [ "$before" != "$after" ]; then
  echo "make generate changed the tree; commit what it makes:" >&2
  diff <(echo "$before") <(echo "$after") >&2 || true
  exit 1
fi

step "each module builds alone"
for module in api kit policy extauthz ratelimit controlplane services cli mesh e2e bench; do
  (cd "$module" && GOWORK=off go build ./... && GOWORK=off go vet ./...)
  echo "  $module"
done

step "unit and feature tests"
modules=()
for module in api kit policy extauthz ratelimit controlplane services cli mesh; do modules+=("./$module/..."); done
go test -timeout 10m "$@" "${modules[@]}"

step "binaries"
make --no-print-directory build

step "tools that check the charts"
scripts/tools.sh charts >/dev/null

step "the running whole, through the real Envoy"
go test -timeout 15m -count=1 "$@" ./e2e/...
