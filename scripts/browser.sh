#!/usr/bin/env bash
# Puts what the tests with a real browser need outside the checkout: the modules
# of e2e/browser, pinned by their lock file, and chromium. Prints the folder and
# the browser.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
src=$root/e2e/browser
command -v node >/dev/null && command -v npm >/dev/null ||
  { echo "browser.sh: node 20 or later and npm are needed: install them" >&2; exit 1; }
chromium=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
if [ -z "$chromium" ]; then
  if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    echo "installing chromium ..." >&2
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null
    chromium=$(command -v chromium)
  else
    echo "browser.sh: a browser is needed: install chromium, for example with: sudo apt-get install chromium" >&2
    exit 1
  fi
fi
key=$(cat "$src/package.json" "$src/package-lock.json" | sha256sum | cut -c1-16)
out=${WEIR_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/weir}/browser/$key
if [ ! -f "$out/.complete" ]; then
  mkdir -p "$out"
  cp "$src/package.json" "$src/package-lock.json" "$out/"
  (cd "$out" && npm ci --no-audit --no-fund --loglevel=error >&2)
  touch "$out/.complete"
fi
# Modules are found beside the files that import them.
cp "$src"/*.mjs "$out/"
echo "$out"
echo "$chromium"
