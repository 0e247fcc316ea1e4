{{/* Security of a pod and of its containers: the "restricted" pod security standard, and a read-only root. */}}
{{- define "weir.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "weir.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* Where pods go: spread over zones and hosts, and rather not beside one of their own. */}}
{{- define "weir.placement" -}}
{{- $selector := include "weir.selector" . | fromYaml }}
{{- /* Pods of one revision are spread among themselves, and each kind has a label of its own for that. */}}
{{- $revision := eq (get . "workload" | default "Deployment") "StatefulSet" | ternary "controller-revision-hash" "pod-template-hash" }}
topologySpreadConstraints:
  - topologyKey: topology.kubernetes.io/zone
    maxSkew: 1
    whenUnsatisfiable: {{ .pod.topologySpread.zones }}
    labelSelector: {matchLabels: {{ $selector | toJson }}}
    matchLabelKeys: [{{ $revision }}]
  - topologyKey: kubernetes.io/hostname
    maxSkew: 1
    whenUnsatisfiable: {{ .pod.topologySpread.hosts }}
    labelSelector: {matchLabels: {{ $selector | toJson }}}
    matchLabelKeys: [{{ $revision }}]
affinity:
{{- if .pod.affinity }}
{{ toYaml .pod.affinity | indent 2 }}
{{- else }}
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector: {matchLabels: {{ $selector | toJson }}}
{{- end }}
{{- with .pod.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .root.Values.global.image.pullSecrets }}
imagePullSecrets: {{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/*
The pod of one of Weir's daemons. More of the dict:
  pod        values of the daemon
  binary     its name, and the image's
  port       of gRPC
  config     its configuration, YAML
  env        more environment, YAML list
  volumes, mounts  more of them, YAML lists
  token      "true" mounts the service account's token
*/}}
{{- define "weir.daemonPod" -}}
metadata:
  labels: {{- include "weir.podLabels" . | nindent 4 }}
  annotations:
    weir.dev/config-checksum: {{ .config | sha256sum }}
{{- if .root.Values.global.sidecars.inject }}
    proxy.istio.io/config: '{"holdApplicationUntilProxyStarts": true}'
{{- if include "weir.plainMetrics" . }}
    traffic.sidecar.istio.io/excludeInboundPorts: {{ include "weir.metricsPort" . | quote }}
{{- end }}
{{- end }}
{{- with .pod.podAnnotations }}
{{ toYaml . | indent 4 }}
{{- end }}
spec:
  serviceAccountName: {{ include "weir.serviceAccountName" . }}
  automountServiceAccountToken: {{ get . "token" | default "false" }}
  enableServiceLinks: false
  securityContext: {{- include "weir.podSecurity" . | nindent 4 }}
  # What is to end is first taken out of DNS and the proxies, then drained.
  terminationGracePeriodSeconds: {{ add (int .pod.preStopSeconds) 30 }}
{{ include "weir.placement" . | indent 2 }}
  containers:
    - name: {{ .binary }}
      image: {{ include "weir.image" (merge (dict "image" .pod.image) .) }}
      imagePullPolicy: {{ include "weir.pullPolicy" (merge (dict "image" .pod.image) .) }}
      args: [--config, /etc/weir/config/{{ .binary }}.yaml]
      env:
        - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
        # The garbage collector keeps below what the kernel would kill for.
        - {name: GOMEMLIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
{{- with .root.Values.global.otlp.address }}
        - {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: "http://{{ . }}"}
{{- end }}
{{- with get . "env" }}
{{ . | indent 8 }}
{{- end }}
{{- with .pod.extraEnv }}
{{ toYaml . | indent 8 }}
{{- end }}
      ports:
        - {name: grpc, containerPort: {{ .port }}}
        - {name: metrics, containerPort: 9900}
{{- with get . "ports" }}
{{ . | indent 8 }}
{{- end }}
      startupProbe:
        httpGet: {path: /livez, port: metrics}
        periodSeconds: 1
        failureThreshold: 60
      livenessProbe:
        httpGet: {path: /livez, port: metrics}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 3
      readinessProbe:
        httpGet: {path: /readyz, port: metrics}
        periodSeconds: 3
        timeoutSeconds: 3
        failureThreshold: 2
      lifecycle:
        preStop: {sleep: {seconds: {{ .pod.preStopSeconds }}}}
      resources: {{- toYaml .pod.resources | nindent 8 }}
      securityContext: {{- include "weir.containerSecurity" . | nindent 8 }}
      volumeMounts:
        - {name: config, mountPath: /etc/weir/config, readOnly: true}
        - {name: certs, mountPath: /etc/weir/certs, readOnly: true}
{{- with get . "mounts" }}
{{ . | indent 8 }}
{{- end }}
  volumes:
    - name: config
      configMap: {name: {{ include "weir.name" . }}}
    - name: certs
      secret: {secretName: {{ include "weir.secretName" . }}, defaultMode: 0440}
{{- with get . "volumes" }}
{{ . | indent 4 }}
{{- end }}
{{- end }}

{{/* spec.replicas, unless an autoscaler decides it. */}}
{{- define "weir.replicas" -}}
{{- if not (include "weir.autoscaled" .) }}
replicas: {{ .pod.replicas }}
{{- end }}
{{- end }}

{{/* "true" where there is an autoscaler: one replica stays one. */}}
{{- define "weir.autoscaled" -}}
{{- if and .pod.autoscaling.enabled (gt (int .pod.replicas) 1) }}true{{ end }}
{{- end }}

{{/* A daemon's Deployment. */}}
{{- define "weir.deployment" -}}
apiVersion: apps/v1
kind: Deployment
metadata: {{- include "weir.metadata" . | nindent 2 }}
spec:
{{- include "weir.replicas" . | indent 2 }}
  revisionHistoryLimit: 5
  minReadySeconds: 3
{{- if get . "single" }}
  strategy: {type: Recreate}
{{- else }}
  strategy:
    type: RollingUpdate
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
{{- end }}
  selector:
    matchLabels: {{- include "weir.selector" . | nindent 6 }}
  template: {{- include "weir.daemonPod" . | nindent 4 }}
{{- end }}
