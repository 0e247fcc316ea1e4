#!/usr/bin/env bash
# make e2e: the slower suites of the running whole.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
scripts/prerequisites.sh
go test -tags slow -timeout 30m -count=1 -v -run "^TestSlow" ./e2e/ | grep -vE "^(=== (RUN|PAUSE|CONT|NAME))"
# The first time this builds envoyproxy/ratelimit, to be compared with.
go test -tags slow -timeout 20m -count=1 -v -run "^TestSlow" ./ratelimit/cmd/ratelimit/ ./ratelimit/store/redis/ | grep -vE "^(=== (RUN|PAUSE|CONT|NAME))"
# The first time this builds Kubernetes, which takes about ten minutes.
go test -tags slow -timeout 60m -count=1 -v -run "^TestSlow" ./e2e/kubernetes/ | grep -vE "^(=== (RUN|PAUSE|CONT|NAME))"
# Weir installed on a whole Kubernetes node, which is built the first time, too.
if [ "$(uname -s)" = Linux ] && [ "$(id -u)" = 0 ]; then
  scripts/prerequisites.sh node
  go test -tags slow -timeout 85m -count=1 -v -run "^TestSlow" ./e2e/node/ | grep -vE "^(=== (RUN|PAUSE|CONT|NAME))"
else
  echo "e2e/node is not run: it boots a Kubernetes node without Docker, which needs root on Linux"
fi
