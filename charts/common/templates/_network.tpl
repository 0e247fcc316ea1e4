{{/*
A NetworkPolicy: what is not named is refused. More of the dict:
  from     YAML of ingress rules beside those for metrics
  to       YAML of egress rules beside those for names
*/}}
{{- define "weir.networkPolicy" -}}
{{- if .root.Values.global.networkPolicy.enabled }}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{- include "weir.metadata" . | nindent 2 }}
spec:
  podSelector:
    matchLabels: {{- include "weir.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
{{- .from | nindent 4 }}
{{- with include "weir.callersNamespaces" . | fromJsonArray }}
    # Callers of other namespaces, whom Istio tells by their identity.
    - from: [{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: {{ toJson . }}}]}}]
      ports: [{port: grpc}]
{{- end }}
{{- if .root.Values.global.monitoring.serviceMonitors.enabled }}
    - from:
        - namespaceSelector: {{- toYaml .root.Values.global.monitoring.namespaceSelector | nindent 12 }}
      ports: [{port: metrics}]
{{- end }}
  egress:
    # Names.
    - ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
{{- if .root.Values.global.sidecars.inject }}
    # The sidecar's istiod.
    - ports: [{port: 15012}]
      to: [{namespaceSelector: {}}]
{{- end }}
{{- with get . "to" }}
{{- . | nindent 4 }}
{{- end }}
{{- with .root.Values.global.otlp.address }}
    - ports: [{port: {{ splitList ":" . | last }}}]
{{- end }}
{{- with .pod.networkPolicy.extraEgress }}
{{ toYaml . | indent 4 }}
{{- end }}
{{- end }}
{{- end }}

{{/* Pods of other parts, in this namespace; "parts" are their names. */}}
{{- define "weir.pods" -}}
- podSelector:
    matchLabels: {app.kubernetes.io/part-of: weir}
    matchExpressions:
      - {key: app.kubernetes.io/name, operator: In, values: {{ .parts | toJson }}}
{{- end }}

{{/* Egress to the Kubernetes API, whose address a chart can't know. */}}
{{- define "weir.toAPIServer" -}}
{{- $api := .root.Values.global.networkPolicy.apiServer }}
- ports: [{{- range $i, $port := $api.ports }}{{ if $i }}, {{ end }}{port: {{ $port }}}{{ end }}]
{{- with $api.cidrs }}
  to: {{- range . }}
    - ipBlock: {cidr: {{ . | quote }}}
{{- end }}
{{- end }}
{{- end }}
