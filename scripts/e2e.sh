#!/usr/bin/env bash
# make e2e: the slower suites of the running whole.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
scripts/prerequisites.sh
WEIR_E2E_SLOW=1 go test -timeout 30m -count=1 -v -run 'Slow' ./e2e/... | grep -vE '^(=== (RUN|PAUSE|CONT|NAME)|\s+--- )'
