#!/usr/bin/env bash
# Lints every module, the protos and the shell scripts.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
tools=$(scripts/tools.sh lint)
status=0
for module in api kit policy extauthz ratelimit controlplane services cli mesh e2e bench; do
  echo "lint $module"
  (cd "$module" && "$tools/golangci-lint" run --build-tags slow --config "$root/.golangci.yml" ./...) || status=1
done
for script in scripts/*.sh .ci/run; do
  bash -n "$script" || status=1
done
exit $status
