{{- define "ratelimit.part" -}}
{{- $env := "" }}
{{- with .Values.redis }}{{ if and .existingSecret .urlKey }}
{{- $env = printf "- {name: WEIR_REDIS_URL, valueFrom: {secretKeyRef: {name: %s, key: %s}}}" .existingSecret .urlKey }}
{{- end }}{{ end }}
{{- dict "component" "ratelimit" "binary" "ratelimitd" "port" 18003 "headless" true "config" (include "ratelimit.config" .) "env" $env | toYaml }}
{{- end }}

{{- define "ratelimit.config" -}}
{{- $base := include "ratelimit.base" (dict "root" . "component" "ratelimit" "port" 18003 "logLevel" .Values.logLevel) }}
{{- include "weir.config" (dict "base" $base "over" .Values.config) }}
{{- end }}

{{- define "ratelimit.base" -}}
{{- $ := .root }}
{{- $redis := $.Values.redis }}
{{- include "weir.daemonConfig" . }}
controlPlane: {address: {{ include "weir.address" (dict "root" $ "component" "controlplane" "address" $.Values.controlPlane.address "port" 18000) | quote }}}
{{- if eq $.Values.store "redis" }}
store:
  replicas: {{ $.Values.replicas }}
  redis:
    url: {{ $redis.url | quote }}
    mode: {{ $redis.mode }}
{{- if $redis.passwordKey }}
    passwordFile: /etc/weir/redis/{{ $redis.passwordKey }}
{{- end }}
{{- if $redis.caSecret }}
    tls: {caFile: /etc/weir/redis-ca/ca.crt}
{{- end }}
{{- end }}
{{- end }}
