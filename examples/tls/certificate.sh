#!/bin/sh
# Prints a Secret named api with a certificate for a host name that nobody but you
# trusts:  examples/tls/certificate.sh api.example.com > certificate.yaml
set -eu
name=${1:?usage: certificate.sh HOSTNAME}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "/CN=$name" \
  -addext "subjectAltName=DNS:$name" -keyout "$work/tls.key" -out "$work/tls.crt" 2>/dev/null
cat <<YAML
apiVersion: v1
kind: Secret
metadata: {name: api}
type: kubernetes.io/tls
stringData:
  tls.crt: |
$(sed 's/^/    /' "$work/tls.crt")
  tls.key: |
$(sed 's/^/    /' "$work/tls.key")
YAML
