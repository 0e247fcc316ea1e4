{{/*
What scales a part by what is asked of it: a HorizontalPodAutoscaler, or a
ScaledObject, of which KEDA's operator makes one.
*/}}
{{- define "weir.autoscaler" -}}
{{- $by := .pod.autoscaling }}
{{- $keda := eq $by.kind "ScaledObject" }}
{{- if and $keda $by.metrics }}
{{- fail (printf "%s: autoscaling.metrics are a HorizontalPodAutoscaler's: with kind ScaledObject write autoscaling.triggers" .component) }}
{{- end }}
{{- if and (not $keda) $by.triggers }}
{{- fail (printf "%s: autoscaling.triggers are a ScaledObject's: set kind ScaledObject, or write autoscaling.metrics" .component) }}
{{- end }}
{{- if include "weir.autoscaled" . }}
{{- if not (or $by.cpu $by.memory (get $by "requestsPerSecond") $by.metrics $by.triggers) }}
{{- fail (printf "%s: autoscaling has nothing to go by: set autoscaling.cpu, memory or %s, or enabled: false" .component (ternary "triggers" "metrics" $keda)) }}
{{- end }}
{{- if lt (int $by.maxReplicas) (int .pod.replicas) }}
{{- fail (printf "%s: autoscaling.maxReplicas is %d, and replicas, from which it scales, %d: raise it, or set enabled: false" .component (int $by.maxReplicas) (int .pod.replicas)) }}
{{- end }}
{{- include "weir.requested" . }}
{{- if $keda }}
{{- include "weir.scaledObject" . }}
{{- else }}
{{- include "weir.horizontalPodAutoscaler" . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "weir.scaled" -}}
{apiVersion: apps/v1, kind: {{ get . "workload" | default "Deployment" }}, name: {{ include "weir.name" . }}}
{{- end }}

{{/*
Nothing; fails where a share of what is requested is gone by, and a container of the
pod requests none: Kubernetes then has no share of the whole pod. A limit without a
request is requested, too. Other containers of the chart are in "beside", by what
their values are called.
*/}}
{{- define "weir.requested" -}}
{{- $part := . }}
{{- $containers := merge (dict "resources" .pod.resources) (get . "beside" | default dict) }}
{{- range $measure := list "cpu" "memory" }}
{{- if get $part.pod.autoscaling $measure }}
{{- range $at, $own := $containers }}
{{- $resources := $own | default dict }}
{{- $request := get (get $resources "requests" | default dict) $measure }}
{{- if has (toString $request) (list "" "<nil>") }}
{{- $request = get (get $resources "limits" | default dict) $measure | default 0 }}
{{- end }}
{{- if regexMatch "^0+([.]0+)?[A-Za-z]*$" (toString $request) }}
{{- fail (printf "%s: %s.requests.%s is not there or 0, and autoscaling.%s is a share of it: set it, or autoscaling.%s to 0" $part.component $at $measure $measure $measure) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "weir.horizontalPodAutoscaler" -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {{- include "weir.metadata" . | nindent 2 }}
spec:
  scaleTargetRef: {{ include "weir.scaled" . }}
  minReplicas: {{ .pod.replicas }}
  maxReplicas: {{ .pod.autoscaling.maxReplicas }}
  metrics:
{{- with .pod.autoscaling.cpu }}
    - type: Resource
      resource: {name: cpu, target: {type: Utilization, averageUtilization: {{ int . }}}}
{{- end }}
{{- with .pod.autoscaling.memory }}
    - type: Resource
      resource: {name: memory, target: {type: Utilization, averageUtilization: {{ int . }}}}
{{- end }}
{{- with get .pod.autoscaling "requestsPerSecond" }}
    - type: Pods
      pods: {metric: {name: {{ include "weir.requestsMetric" $ }}}, target: {type: AverageValue, averageValue: {{ int . | quote }}}}
{{- end }}
{{- with .pod.autoscaling.metrics }}
{{ toYaml . | indent 4 }}
{{- end }}
{{- with .pod.autoscaling.behavior }}
  behavior: {{- toYaml . | nindent 4 }}
{{- end }}
{{- end }}

{{- define "weir.scaledObject" -}}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {{- include "weir.metadata" . | nindent 2 }}
spec:
  scaleTargetRef: {{ include "weir.scaled" . }}
  minReplicaCount: {{ .pod.replicas }}
  maxReplicaCount: {{ .pod.autoscaling.maxReplicas }}
{{- with .pod.autoscaling.behavior }}
  advanced:
    horizontalPodAutoscalerConfig:
      behavior: {{- toYaml . | nindent 8 }}
{{- end }}
  triggers:
{{- with .pod.autoscaling.cpu }}
    - type: cpu
      metricType: Utilization
      metadata: {value: {{ int . | quote }}}
{{- end }}
{{- with .pod.autoscaling.memory }}
    - type: memory
      metricType: Utilization
      metadata: {value: {{ int . | quote }}}
{{- end }}
{{- with get .pod.autoscaling "requestsPerSecond" }}
    - type: prometheus
      metricType: AverageValue
      metadata:
        serverAddress: {{ $.root.Values.global.monitoring.prometheusURL | required (printf "global.monitoring.prometheusURL: say where Prometheus is, which KEDA asks for the requestsPerSecond of %s" $.component) | quote }}
        query: {{ include "weir.requestsQuery" $ | squote }}
        threshold: {{ int . | quote }}
        # Without an answer the pods stay as many as they are.
        ignoreNullValues: "false"
{{- end }}
{{- with .pod.autoscaling.triggers }}
{{ toYaml . | indent 4 }}
{{- end }}
{{- end }}

{{/* How an adapter calls a pod's requests a second: see docs/guides/autoscaling.md. */}}
{{- define "weir.requestsMetric" -}}
weir_{{ ternary "http" "grpc" (eq .component "ingress") }}_requests_per_second
{{- end }}

{{/* The requests a second of all pods of a part, in PromQL: as the adapter's rules have it for each pod. */}}
{{- define "weir.requestsQuery" -}}
{{- $pods := printf "namespace=%q,pod=~%q" .root.Release.Namespace (printf "%s.+" (include "weir.podPrefix" .)) }}
{{- if eq .component "ingress" -}}
sum(rate(envoy_http_downstream_rq_total{ {{- $pods }},envoy_http_conn_manager_prefix!="admin"}[2m]))
{{- else -}}
sum(rate(grpc_server_handled_total{ {{- $pods }},grpc_type="unary",grpc_service=~"envoy[.].+|weir[.].+"}[2m]))
{{- end }}
{{- end }}

{{/*
What names of a part's pods begin with. A StatefulSet's have its whole name. Of what
a Deployment's begin with Kubernetes takes 58 characters, and adds five (MaxGeneratedNameLength
in k8s.io/apiserver/pkg/storage/names).
*/}}
{{- define "weir.podPrefix" -}}
{{- $prefix := printf "%s-" (include "weir.name" .) }}
{{- if eq (get . "workload" | default "Deployment") "StatefulSet" }}{{ $prefix }}{{ else }}{{ trunc 58 $prefix }}{{ end }}
{{- end }}
