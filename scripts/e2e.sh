#!/usr/bin/env bash
# make e2e: the slower suites of the running whole. With WEIR_E2E_UNTIL (seconds
# since 1970) none is begun for which too little time is left: it is said, as the
# last line too, and is no failure.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
left_out=()

# suite MINUTES TIMEOUT WHAT ARGUMENTS...: MINUTES is what it takes when what it
# needs is built already.
suite() {
  local minutes=$1 timeout=$2 what=$3
  shift 3
  if [ -n "${WEIR_E2E_UNTIL:-}" ] && [ $((WEIR_E2E_UNTIL - $(date +%s))) -lt $((minutes * 60)) ]; then
    echo "NOT RUN, since less than $minutes minutes are left: $what"
    left_out+=("$what")
    return
  fi
  go test -tags slow -timeout "$timeout" -count=1 -v "$@" | grep -vE "^(=== (RUN|PAUSE|CONT|NAME))"
}

scripts/prerequisites.sh
suite 8 30m "the running whole" -run "^TestSlow" ./e2e/
# The first time this builds envoyproxy/ratelimit, to be compared with.
suite 8 20m "ratelimit beside envoyproxy/ratelimit" -run "^TestSlow" ./ratelimit/cmd/ratelimit/ ./ratelimit/store/redis/
# The first time this builds Kubernetes, which takes about ten minutes.
suite 8 60m "policy from Kubernetes" -run "^TestSlow" ./e2e/kubernetes/
# Weir installed on a whole Kubernetes node, which is built the first time, too.
if [ "$(uname -s)" = Linux ] && [ "$(id -u)" = 0 ]; then
  scripts/prerequisites.sh node
  suite 6 60m "an installation on Kubernetes" -run "^TestSlowInstall" ./e2e/node/
  suite 18 60m "the same answers from Istio" -run "^TestSlowIstio" ./e2e/node/
  suite 8 60m "mutual TLS step by step" -run "^TestSlowMTLS" ./e2e/node/
  suite 12 60m "Gateway API conformance" -run "^TestSlowGatewayAPI" ./e2e/node/
  suite 13 60m "failures on Kubernetes" -run "^TestSlowFailures" ./e2e/node/
  # The first time this builds metrics-server, in five minutes, and Prometheus and
  # prometheus-adapter, in three.
  suite 12 60m "autoscalers on Kubernetes" -run "^TestSlowAutoscale" ./e2e/node/
else
  echo "e2e/node is not run: it boots a Kubernetes node without Docker, which needs root on Linux"
fi
[ ${#left_out[@]} = 0 ] || printf 'NOT RUN for lack of time: %s\n' "${left_out[@]}"
