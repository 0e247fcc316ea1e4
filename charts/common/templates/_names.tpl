{{/*
Each template takes (dict "root" $ "component" NAME ...): the chart's context, and
which of Weir's parts it is about.
*/}}

{{/* The name of a part's objects. */}}
{{- define "weir.name" -}}
{{ .root.Release.Name }}-{{ .component }}
{{- end }}

{{/* Labels that select a part's pods; they never change. */}}
{{- define "weir.selector" -}}
app.kubernetes.io/name: {{ .component }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{- define "weir.labels" -}}
{{ include "weir.selector" . }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/part-of: weir
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "weir.metadata" -}}
name: {{ include "weir.name" . }}
namespace: {{ .root.Release.Namespace }}
labels: {{- include "weir.labels" . | nindent 2 }}
{{- end }}

{{/* Labels and annotations of a part's pods; "pod" are its values. */}}
{{- define "weir.podLabels" -}}
{{- $inject := ternary "true" "false" .root.Values.global.sidecars.inject }}
{{- merge (include "weir.labels" . | fromYaml) (dict "sidecar.istio.io/inject" $inject) (.pod.podLabels | default dict) | toYaml }}
{{- end }}

{{- define "weir.serviceAccountName" -}}
{{ .pod.serviceAccount.name | default (include "weir.name" .) }}
{{- end }}

{{/* The Secret with a part's certificate. */}}
{{- define "weir.secretName" -}}
{{- $certificates := .root.Values.global.certificates }}
{{- if $certificates.existingSecrets }}
{{- required (printf "global.certificates.existingSecrets.%s: name the Secret with tls.crt, tls.key and ca.crt of spiffe://weir.local/%s" .component .component) (get $certificates.existingSecrets .component) }}
{{- else }}
{{- include "weir.secretPrefix" . }}-{{ .component }}-tls
{{- end }}
{{- end }}

{{- define "weir.secretPrefix" -}}
{{ .root.Values.global.certificates.secretPrefix | default .root.Release.Name }}
{{- end }}

{{/* An image; "binary" is the default repository's last part, "image" what a chart says itself. */}}
{{- define "weir.image" -}}
{{- $global := .root.Values.global.image }}
{{- $own := get . "image" | default dict }}
{{- $repository := (get $own "repository") | default (printf "%s/%s" $global.repository .binary) }}
{{- printf "%s/%s:%s" ((get $own "registry") | default $global.registry) $repository ((get $own "tag") | default $global.tag | default .root.Chart.AppVersion) }}
{{- end }}

{{- define "weir.pullPolicy" -}}
{{ get (get . "image" | default dict) "pullPolicy" | default .root.Values.global.image.pullPolicy }}
{{- end }}

{{/* host:port of another part: what is said, or that of this release. */}}
{{- define "weir.address" -}}
{{- if .address }}{{ .address }}{{ else -}}
{{ .root.Release.Name }}-{{ .component }}.{{ .root.Release.Namespace }}.svc:{{ .port }}
{{- end }}
{{- end }}

{{/* TLS files of a part, as its configuration names them. */}}
{{- define "weir.tls" -}}
certFile: /etc/weir/certs/tls.crt
keyFile: /etc/weir/certs/tls.key
caFile: /etc/weir/certs/ca.crt
{{- end }}

{{/* What all daemons' configurations have; "port" is the gRPC server's. */}}
{{- define "weir.daemonConfig" -}}
admin: {listen: ":9900"}
log: {level: {{ .logLevel }}}
server:
  listen: ":{{ .port }}"
  tls: {{- include "weir.tls" . | nindent 4 }}
{{- end }}

{{/* The YAML of a configuration: "base" with what the values say merged over it. */}}
{{- define "weir.config" -}}
{{- mergeOverwrite (.base | fromYaml) (deepCopy (.over | default dict)) | toYaml }}
{{- end }}

{{/* Where a Gateway listener's port is bound: those below 1024 need privileges that nothing here has. */}}
{{- define "weir.boundPort" -}}
{{- if lt (int .) 1024 }}{{ add (int .) 10000 }}{{ else }}{{ int . }}{{ end }}
{{- end }}
