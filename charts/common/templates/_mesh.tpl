{{/*
What Istio is told of a part that has a sidecar. More of the dict:
  callers    names of parts that call it
  meshPorts  ports that they call
*/}}
{{- define "weir.mesh" -}}
{{- $policies := .root.Values.global.sidecars.policies }}
{{- if and $policies.enabled (not .root.Values.global.sidecars.inject) }}
{{- fail "global.sidecars.policies.enabled: without sidecars nobody would be told by them: set global.sidecars.inject, too" }}
{{- end }}
{{- if and (get $policies.callers .component) (not (get . "meshPorts")) }}
{{- fail (printf "global.sidecars.policies.callers.%s: nobody of the mesh calls this part: take it out" .component) }}
{{- end }}
{{- if include "weir.named" . }}
{{- $own := .pod.serviceAccount.name }}
{{- $account := get $policies.serviceAccounts .component | default "" }}
{{- $named := splitList "/" $account | last }}
{{- if and (contains "/" $account) (not (hasPrefix (printf "%s/" .root.Release.Namespace) $account)) }}
{{- fail (printf "global.sidecars.policies.serviceAccounts.%s: is %q, and the pods are in the namespace %q: other parts would refuse them" .component $account .root.Release.Namespace) }}
{{- end }}
{{- if and $own (ne $own $named) }}
{{- fail (printf "global.sidecars.policies.serviceAccounts.%s: say %q, as serviceAccount.name does: by it other parts know who calls" .component $own) }}
{{- end }}
{{- if and $named (not $own) (ne $named (include "weir.name" .)) }}
{{- fail (printf "global.sidecars.policies.serviceAccounts.%s: is %q, and the pods have %q: name it in serviceAccount.name of the part, too" .component $named (include "weir.name" .)) }}
{{- end }}
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{- include "weir.metadata" . | nindent 2 }}
spec:
  selector:
    matchLabels: {{- include "weir.selector" . | nindent 6 }}
  action: ALLOW
{{- $root := .root }}
{{- $from := list }}
{{- range (get . "callers" | default list) }}{{ $from = append $from (include "weir.principal" (dict "root" $root "component" .)) }}{{ end }}
{{- $from = concat $from (get $policies.callers .component | default list) }}
{{- $ports := list }}
{{- range (get . "meshPorts" | default list) }}{{ $ports = append $ports (toString .) }}{{ end }}
{{- $rules := list }}
{{- if and $from $ports }}{{ $rules = append $rules (dict "from" (list (dict "source" (dict "principals" $from))) "to" (list (dict "operation" (dict "ports" $ports)))) }}{{ end }}
{{- if $policies.scrapers }}{{ $rules = append $rules (dict "from" (list (dict "source" (dict "principals" $policies.scrapers))) "to" (list (dict "operation" (dict "ports" (list (include "weir.metricsPort" .)))))) }}{{ end }}
{{- with $rules }}
  rules: {{- toYaml . | nindent 4 }}
{{- end }}
{{- with .pod.sidecarEgress }}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{- include "weir.metadata" $ | nindent 2 }}
spec:
  workloadSelector:
    labels: {{- include "weir.selector" $ | nindent 6 }}
  egress:
    - hosts: {{ concat (list "./*") . | uniq | toJson }}
{{- end }}
{{- end }}
{{- end }}

{{/* The other namespaces of which a part is called, as JSON. */}}
{{- define "weir.callersNamespaces" -}}
{{- $found := list }}
{{- if and (include "weir.named" .) (ne .component "ingress") }}
{{- $policies := .root.Values.global.sidecars.policies }}
{{- range (get $policies.callers .component | default list) }}
{{- with regexFind "/ns/[^/*]+/" . }}{{ $found = append $found (. | trimPrefix "/ns/" | trimSuffix "/") }}{{ end }}
{{- end }}
{{- range $policies.serviceAccounts }}
{{- if contains "/" . }}{{ $found = append $found (splitList "/" . | first) }}{{ end }}
{{- end }}
{{- end }}
{{- without $found .root.Release.Namespace | uniq | sortAlpha | toJson }}
{{- end }}

{{/* "true" where Istio is told who calls whom. */}}
{{- define "weir.named" -}}
{{- with .root.Values.global.sidecars }}{{ if and .inject .policies.enabled }}true{{ end }}{{ end }}
{{- end }}

{{/* A part's identity in the mesh. */}}
{{- define "weir.principal" -}}
{{- $policies := .root.Values.global.sidecars.policies }}
{{- $account := get $policies.serviceAccounts .component | default (include "weir.name" .) }}
{{- if not (contains "/" $account) }}{{ $account = printf "%s/%s" .root.Release.Namespace $account }}{{ end }}
{{- $parts := splitList "/" $account }}
{{- printf "%s/ns/%s/sa/%s" $policies.trustDomain (first $parts) (last $parts) }}
{{- end }}

{{/* Where a part's metrics are. */}}
{{- define "weir.metricsPort" -}}
{{- ternary "9902" "9900" (eq .component "ingress") }}
{{- end }}

{{/* "true" where Prometheus scrapes and has no identity that is named: metrics go past the sidecar, and the NetworkPolicy says who may have them. */}}
{{- define "weir.plainMetrics" -}}
{{- $global := .root.Values.global }}
{{- if and $global.sidecars.inject $global.monitoring.serviceMonitors.enabled (not (and $global.sidecars.policies.enabled $global.sidecars.policies.scrapers)) }}true{{ end }}
{{- end }}
