#!/usr/bin/env bash
# make bench: the benchmarks beside the code, as a table and a picture.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
out=$(mktemp)
trap 'rm -f "$out"' EXIT
go test -run '^$' -bench . -benchmem -benchtime "${BENCHTIME:-0.5s}" ./policy/... ./extauthz/... ./ratelimit/... ./services/... ./controlplane/... | tee "$out" | grep -E '^(Benchmark|ok|FAIL|panic)' || true
go run ./e2e/cmd/benchchart -in "$out" -svg docs/bench/benchmarks.svg -table docs/bench/benchmarks.md
(cd extauthz && go run ./internal/authbench -out ../docs/bench/extauthz.md)
(cd ratelimit && go run ./internal/limitbench -out ../docs/bench/ratelimit.md -svg ../docs/bench/ratelimit.svg)
