#!/usr/bin/env bash
# Makes sure that PostgreSQL, Redis and memcached servers are here for the suites; installs
# them with apt where that is possible, and says what to do where it is not.
#   scripts/prerequisites.sh [node]
# With node, also what runs containers on a Kubernetes node without Docker.
set -euo pipefail
have_postgres() { command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb /opt/homebrew/opt/postgresql*/bin/initdb >/dev/null 2>&1; }
have_redis() { command -v redis-server >/dev/null; }
have_memcached() { command -v memcached >/dev/null; }
have_node() { for program in runc iptables nft conntrack ip; do command -v "$program" >/dev/null || return 1; done; }
missing=()
have_postgres || missing+=(postgresql)
have_redis || missing+=(redis-server)
have_memcached || missing+=(memcached)
[ "${1:-}" != node ] || have_node || missing+=(runc iptables nftables conntrack iproute2)
[ ${#missing[@]} -eq 0 ] && exit 0
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
  echo "installing ${missing[*]} ..."
  export DEBIAN_FRONTEND=noninteractive
  # The packages must not start servers of their own: the suites start private
  # ones.
  printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
else
  echo "the suites need ${missing[*]}: install it, for example with: sudo apt-get install ${missing[*]}" >&2
  exit 1
fi
have_postgres && have_redis && have_memcached && { [ "${1:-}" != node ] || have_node; }
