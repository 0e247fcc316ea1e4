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

{{- define "weir.maxReplicas" -}}
{{ max (int .pod.autoscaling.maxReplicas) (int .pod.replicas) }}
{{- end }}

{{- define "weir.horizontalPodAutoscaler" -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {{- include "weir.metadata" . | nindent 2 }}
spec:
  scaleTargetRef: {{ include "weir.scaled" . }}
  minReplicas: {{ .pod.replicas }}
  maxReplicas: {{ include "weir.maxReplicas" . }}
  metrics:
{{- with .pod.autoscaling.cpu }}
    - type: Resource
      resource: {name: cpu, target: {type: Utilization, averageUtilization: {{ . }}}}
{{- end }}
{{- with .pod.autoscaling.memory }}
    - type: Resource
      resource: {name: memory, target: {type: Utilization, averageUtilization: {{ . }}}}
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
  maxReplicaCount: {{ include "weir.maxReplicas" . }}
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
{{- $pods := printf "namespace=%q,pod=~%q" .root.Release.Namespace (printf "%s-.+" (include "weir.name" .)) }}
{{- if eq .component "ingress" -}}
sum(rate(envoy_http_downstream_rq_total{ {{- $pods }},envoy_http_conn_manager_prefix!="admin"}[2m]))
{{- else -}}
sum(rate(grpc_server_handled_total{ {{- $pods }},grpc_type="unary",grpc_service=~"envoy[.].+|weir[.].+"}[2m]))
{{- end }}
{{- end }}
