#!/usr/bin/env bash
# make e2e: the slower suites of the running whole.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
scripts/prerequisites.sh
go test -tags slow -timeout 30m -count=1 -v -run "^TestSlow" ./e2e/ | grep -vE "^(=== (RUN|PAUSE|CONT|NAME))"
# The first time this builds envoyproxy/ratelimit, to be compared with.
go test -tags slow -timeout 20m -count=1 -v -run "^TestSlow" ./ratelimit/cmd/ratelimit/ ./ratelimit/store/redis/ | grep -vE "^(=== (RUN|PAUSE|CONT|NAME))"
# The first time this builds etcd and kube-apiserver, which takes some minutes.
go test -tags slow -timeout 60m -count=1 -v -run "^TestSlow" ./e2e/kubernetes/ | grep -vE "^(=== (RUN|PAUSE|CONT|NAME))"
