{{- define "weir.configMap" -}}
apiVersion: v1
kind: ConfigMap
metadata: {{- include "weir.metadata" . | nindent 2 }}
data:
  {{ .binary }}.yaml: | {{- .config | nindent 4 }}
{{- end }}

{{- define "weir.serviceAccount" -}}
{{- if not .pod.serviceAccount.name }}
apiVersion: v1
kind: ServiceAccount
metadata: {{- include "weir.metadata" . | nindent 2 }}
{{- with .pod.serviceAccount.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
{{- end }}
automountServiceAccountToken: false
{{- end }}
{{- end }}

{{/* A Service; "headless" lets callers balance over the pods themselves, as gRPC's long connections need. */}}
{{- define "weir.service" -}}
apiVersion: v1
kind: Service
metadata: {{- include "weir.metadata" . | nindent 2 }}
spec:
{{- if get . "headless" }}
  clusterIP: None
{{- end }}
  selector: {{- include "weir.selector" . | nindent 4 }}
  ports:
    # TLS of its own, whatever the mesh does.
    - {name: tls-grpc, port: {{ .port }}, targetPort: grpc}
    - {name: http-metrics, port: 9900, targetPort: metrics}
{{- with get . "servicePorts" }}
{{ . | indent 4 }}
{{- end }}
{{- end }}

{{- define "weir.podDisruptionBudget" -}}
{{- if gt (int .pod.replicas) 1 }}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {{- include "weir.metadata" . | nindent 2 }}
spec:
  maxUnavailable: {{ .pod.podDisruptionBudget.maxUnavailable }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels: {{- include "weir.selector" . | nindent 6 }}
{{- end }}
{{- end }}

{{- define "weir.serviceMonitor" -}}
{{- $monitoring := .root.Values.global.monitoring }}
{{- if $monitoring.serviceMonitors.enabled }}
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
{{ include "weir.metadata" . | indent 2 }}
{{- with $monitoring.serviceMonitors.labels }}
{{ toYaml . | indent 4 }}
{{- end }}
spec:
  selector:
    matchLabels: {{- include "weir.selector" . | nindent 6 }}
  endpoints:
    - {port: http-metrics, path: /metrics, interval: {{ $monitoring.serviceMonitors.interval }}}
{{- end }}
{{- end }}
