{{/* A service; takes (dict "root" $ "component" "user" "binary" "userd" "port" N "pod" VALUES). */}}
{{- define "services.config" -}}
{{- $base := include "services.base" (merge (dict "logLevel" .pod.logLevel) .) }}
{{- include "weir.config" (dict "base" $base "over" .pod.config) }}
{{- end }}

{{- define "services.base" -}}
{{- include "weir.daemonConfig" . }}
  allowedPeers: [spiffe://weir.local/ingress, "spiffe://weir.local/gateway/*"]
{{- if eq .component "user" }}
  reservedPeers:
    weir.keys.v1.ApiKeyFeedService: [spiffe://weir.local/extauthz]
{{- end }}
{{- if eq .pod.store.kind "sqlite" }}
store: {sqlite: {path: /var/lib/weir/{{ .component }}.db}}
{{- end }}
{{- end }}

{{- define "services.service" -}}
{{- $part := merge (dict "headless" true "config" (include "services.config" .)) . }}
{{- $store := .pod.store }}
{{- if eq $store.kind "sqlite" }}
{{- $_ := set $part "single" true }}
{{- $_ := set $part "mounts" "- {name: data, mountPath: /var/lib/weir}" }}
{{- if $store.persistence.enabled }}
{{- $_ := set $part "volumes" (printf "- {name: data, persistentVolumeClaim: {claimName: %s}}" (include "weir.name" .)) }}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
{{ include "weir.metadata" . | indent 2 }}
  annotations: {helm.sh/resource-policy: keep}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: {{ $store.persistence.size }}}}
{{- with $store.persistence.storageClassName }}
  storageClassName: {{ . }}
{{- end }}
{{- else }}
{{- $_ := set $part "volumes" (printf "- {name: data, emptyDir: {sizeLimit: %s}}" $store.persistence.size) }}
{{- end }}
{{- else }}
{{- $_ := set $part "env" (printf "- {name: WEIR_POSTGRES_URL, valueFrom: {secretKeyRef: {name: %s, key: %s}}}" $store.existingSecret $store.key) }}
{{- end }}
---
{{ include "weir.configMap" $part }}
---
{{ include "weir.serviceAccount" $part }}
---
{{ include "weir.service" $part }}
---
{{ include "weir.deployment" $part }}
---
{{ include "weir.podDisruptionBudget" $part }}
---
{{ include "weir.autoscaler" $part }}
---
{{ include "weir.serviceMonitor" $part }}
---
{{- $callers := list "ingress" }}
{{- if eq .component "user" }}{{ $callers = append $callers "extauthz" }}{{ end }}
{{- $from := include "weir.pods" (dict "parts" $callers) }}
{{- $_ := set $part "from" (printf "\n- from:\n%s\n  ports: [{port: grpc}]" ($from | indent 4)) }}
{{- if eq $store.kind "postgres" }}
{{- $_ := set $part "to" (printf "\n# PostgreSQL.\n- ports: [{port: %v}]" $store.port) }}
{{- end }}
{{ include "weir.networkPolicy" $part }}
---
{{- $_ := set $part "callers" $callers }}
{{- $_ := set $part "meshPorts" (list $part.port) }}
{{ include "weir.mesh" $part }}
{{- end }}
