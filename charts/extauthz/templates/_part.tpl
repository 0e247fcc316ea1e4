{{- define "extauthz.part" -}}
{{- $kind := ternary "StatefulSet" "Deployment" (and .Values.audit.enabled .Values.audit.persistence.enabled) -}}
{{- $env := "" }}
{{- with .Values.redis }}{{ if .existingSecret }}
{{- $env = printf "- {name: WEIR_REDIS_URL, valueFrom: {secretKeyRef: {name: %s, key: %s}}}" .existingSecret .key }}
{{- end }}{{ end }}
{{- dict "component" "extauthz" "binary" "extauthzd" "port" 18002 "headless" true "config" (include "extauthz.config" .) "env" $env
      "token" (ternary "true" "false" .Values.tokenReview.enabled) "workload" $kind | toYaml }}
{{- end }}

{{- define "extauthz.config" -}}
{{- $base := include "extauthz.base" (dict "root" . "component" "extauthz" "port" 18002 "logLevel" .Values.logLevel) }}
{{- include "weir.config" (dict "base" $base "over" .Values.config) }}
{{- end }}

{{- define "extauthz.base" -}}
{{- $ := .root }}
{{- include "weir.daemonConfig" . }}
controlPlane: {address: {{ include "weir.address" (dict "root" $ "component" "controlplane" "address" $.Values.controlPlane.address "port" 18000) | quote }}}
{{- if $.Values.keys.enabled }}
keys:
  address: {{ include "weir.address" (dict "root" $ "component" "user" "address" $.Values.keys.address "port" 18004) | quote }}
  file: /var/lib/weir/state/issued-keys
{{- end }}
{{- if $.Values.audit.enabled }}
audit:
  dir: /var/lib/weir/audit/log
  keyDir: /var/lib/weir/audit/keys
{{- end }}
{{- if $.Values.tokenReview.enabled }}
kubernetes: {server: "https://kubernetes.default.svc"}
{{- end }}
{{- end }}
