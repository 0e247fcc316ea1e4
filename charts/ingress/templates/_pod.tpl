{{- define "ingress.pod" -}}
{{- $ := .root }}
{{- $values := .root.Values }}
{{- $admin := "127.0.0.1:9901" }}
metadata:
  labels: {{- include "weir.podLabels" . | nindent 4 }}
  annotations:
{{- if $values.global.sidecars.inject }}
    proxy.istio.io/config: '{"holdApplicationUntilProxyStarts": true}'
    # Clients are not of the mesh.
    traffic.sidecar.istio.io/excludeInboundPorts: {{ printf "%s%s" (include "ingress.boundPorts" .) (include "weir.plainMetrics" . | empty | ternary "" ",9902") | quote }}
{{- end }}
    weir.dev/drain: {{ $values.drain | toJson | quote }}
{{- with .pod.podAnnotations }}
{{ toYaml . | indent 4 }}
{{- end }}
spec:
  serviceAccountName: {{ include "weir.serviceAccountName" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  securityContext: {{- include "weir.podSecurity" . | nindent 4 }}
  terminationGracePeriodSeconds: {{ add (int $values.drain.timeoutSeconds) 15 }}
{{ include "weir.placement" . | indent 2 }}
  initContainers:
    # What Envoy starts with is made by the control plane's own code.
    - name: bootstrap
      image: {{ include "weir.image" (merge (dict "binary" "weir" "image" .pod.image) .) }}
      imagePullPolicy: {{ include "weir.pullPolicy" (merge (dict "image" .pod.image) .) }}
      args:
        - envoy
        - bootstrap
        - --output=/etc/envoy/envoy.json
        - --node-id=$(POD_NAME)
        - --zone=$(POD_ZONE)
        - --control-plane={{ include "weir.address" (dict "root" $ "component" "controlplane" "address" $values.controlPlane.address "port" 18000) }}
        - --cert-dir=/etc/weir/certs
        - --admin={{ $admin }}
        - --public-trust={{ $values.envoy.publicTrustFile | default "/etc/weir/certs/ca.crt" }}
      env:
        - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        # Kubernetes puts it there from 1.35 on; empty before.
        - {name: POD_ZONE, valueFrom: {fieldRef: {fieldPath: "metadata.labels['topology.kubernetes.io/zone']"}}}
      resources: {{- toYaml $values.agent.resources | nindent 8 }}
      securityContext: {{- include "weir.containerSecurity" . | nindent 8 }}
      volumeMounts:
        - {name: bootstrap, mountPath: /etc/envoy}
  containers:
    - name: envoy
      image: {{ include "weir.image" (dict "root" $ "binary" "envoy" "image" $values.envoy.image) }}
      imagePullPolicy: {{ $values.envoy.image.pullPolicy }}
      command: [/usr/local/bin/envoy]
      args:
        - --config-path
        - /etc/envoy/envoy.json
        - --disable-hot-restart
        - --concurrency
        - {{ $values.envoy.concurrency | quote }}
        - --log-level
        - {{ $values.envoy.logLevel }}
        - --component-log-level
        - misc:error
        - --drain-time-s
        - {{ $values.drain.delaySeconds | quote }}
{{- with $values.extraEnv }}
      env: {{- toYaml . | nindent 8 }}
{{- end }}
      ports:
{{- range $values.global.gatewayPorts }}
        - {name: gateway-{{ . }}, containerPort: {{ include "weir.boundPort" . }}}
{{- end }}
      startupProbe:
        httpGet: {path: /live, port: 9902}
        periodSeconds: 1
        failureThreshold: 60
      livenessProbe:
        httpGet: {path: /live, port: 9902}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 3
      readinessProbe:
        httpGet: {path: /ready, port: 9902}
        periodSeconds: 2
        timeoutSeconds: 4
        failureThreshold: 2
      lifecycle:
        # Answered when draining is over, which the agent begins by the pod's end.
        preStop: {httpGet: {path: /drained, port: 9902}}
      resources: {{- toYaml $values.resources | nindent 8 }}
      securityContext: {{- include "weir.containerSecurity" . | nindent 8 }}
      volumeMounts:
        - {name: bootstrap, mountPath: /etc/envoy, readOnly: true}
        - {name: certs, mountPath: /etc/weir/certs, readOnly: true}
    - name: agent
      image: {{ include "weir.image" (merge (dict "binary" "weir" "image" .pod.image) .) }}
      imagePullPolicy: {{ include "weir.pullPolicy" (merge (dict "image" .pod.image) .) }}
      args:
        - envoy
        - agent
        - --listen=:9902
        - --admin={{ $admin }}
        - --delay={{ $values.drain.delaySeconds }}s
        - --timeout={{ $values.drain.timeoutSeconds }}s
      ports:
        - {name: metrics, containerPort: 9902}
      resources: {{- toYaml $values.agent.resources | nindent 8 }}
      securityContext: {{- include "weir.containerSecurity" . | nindent 8 }}
  volumes:
    - {name: bootstrap, emptyDir: {sizeLimit: 16Mi}}
    - name: certs
      secret: {secretName: {{ include "weir.secretName" . }}, defaultMode: 0440}
{{- end }}

{{- define "ingress.boundPorts" -}}
{{- $ports := list }}
{{- range .root.Values.global.gatewayPorts }}{{ $ports = append $ports (include "weir.boundPort" .) }}{{ end }}
{{- join "," $ports }}
{{- end }}
