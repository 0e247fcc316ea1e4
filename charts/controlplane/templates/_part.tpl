{{/* What the shared templates are told of the control plane. */}}
{{- define "controlplane.part" -}}
{{- $config := include "controlplane.config" . -}}
{{- dict "component" "controlplane" "binary" "controlplaned" "port" 18000 "config" $config "token" "true" | toYaml }}
{{- end }}

{{- define "controlplane.config" -}}
{{- $part := dict "root" . "component" "controlplane" "port" 18000 "logLevel" .Values.logLevel }}
{{- $base := include "controlplane.base" (dict "root" . "part" $part) }}
{{- /* Maps read from YAML have text for keys, and ports are numbers. */}}
{{- regexReplaceAll "(?m)^( +)\"([0-9]+)\":" (include "weir.config" (dict "base" $base "over" .Values.config)) "${1}${2}:" }}
{{- end }}

{{- define "controlplane.base" -}}
{{- $dot := . }}
{{- $ := .root }}
{{- $ports := dict }}
{{- range $.Values.global.gatewayPorts }}
{{- if lt (int .) 1024 }}{{ $_ := set $ports (toString .) (include "weir.boundPort" . | int) }}{{ end }}
{{- end }}
{{- include "weir.daemonConfig" .part }}
  # Policy that is sent to be compared or applied.
  maxMessageBytes: 33554432
sources:
  kubernetes:
    enabled: true
    namespaces: {{ $.Values.namespaces | toJson }}
    addresses: {{ $.Values.gatewayAddresses | default (list (printf "%s-ingress.%s.svc.cluster.local" $.Release.Name $.Release.Namespace)) | toJson }}
    leaderElection: {namespace: {{ $.Release.Namespace }}, name: {{ $.Release.Name }}-controlplane-status}
{{- with $.Values.provision }}
{{- if .enabled }}
{{- if $.Values.global.certificates.existingSecrets }}{{ fail "controlplane.provision.enabled: the proxies' certificates are signed by Weir's own authority; leave global.certificates.existingSecrets empty" }}{{ end }}
    provision:
      enabled: true
      namespace: {{ $.Release.Namespace }}
      image: {{ .image | quote }}
      agentImage: {{ include "weir.image" (dict "root" $ "binary" "weir") | quote }}
      replicas: {{ .replicas }}
      serviceType: {{ .serviceType }}
      authoritySecret: {{ include "weir.secretPrefix" $dot.part }}-authority
      controlPlane: {{ include "weir.name" $dot.part }}.{{ $.Release.Namespace }}.svc:18000
      cpu: {{ .cpu | quote }}
      memory: {{ .memory | quote }}
fleets:
  - name: ingress
    gatewayLabels: {weir.dev/ingress: shared}
    peers: [spiffe://weir.local/ingress]
  # The pods of one Gateway are alone in their network: ports are bound as they are.
  - perGateway: true
    ingress: {address: {{ $.Values.listenAddress | quote }}}
{{- end }}
{{- end }}
stateFile: /var/lib/weir/keep
ingress:
  address: {{ $.Values.listenAddress | quote }}
  portMap: {{- if $ports }}{{ range $port, $bound := $ports }}
    {{ $port }}: {{ $bound }}
  {{- end }}{{ else }} {}{{ end }}
extAuthz: {address: {{ include "weir.address" (dict "root" $ "component" "extauthz" "address" $.Values.extAuthz.address "port" 18002) | quote }}}
rateLimit: {address: {{ include "weir.address" (dict "root" $ "component" "ratelimit" "address" $.Values.rateLimit.address "port" 18003) | quote }}}
{{- with $.Values.global.otlp.address }}
otlp: {address: {{ . | quote }}}
{{- end }}
adminAPI:
  rest: ":18001"
  peers: {{ $.Values.adminAPI.peers | toJson }}
{{- end }}
