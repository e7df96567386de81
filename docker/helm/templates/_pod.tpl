{{/* The template of a pod, for Deployment and StatefulSet. */}}
{{- define "coupond.pod" -}}
metadata:
  labels:
    {{- include "coupond.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    # New settings start new pods.
    coupond/settings: {{ include (print .Template.BasePath "/configmap.yaml") . | sha256sum }}
    {{- with .Values.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- with .Values.serviceAccountName }}
  serviceAccountName: {{ . }}
  {{- end }}
  automountServiceAccountToken: false
  # Variables such as COUPOND_PORT, made for a Service named coupond, are not settings.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds | default (add 25 (int (include "coupond.drain" .))) }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    # For the volume of an embedded node. Only its top folder changes hands: the data folder is below it.
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  {{- if .Values.files }}
  initContainers:
    - name: files
      image: {{ .Values.copier.image }}
      # -f: files of an earlier start of this container may be there, and cannot be opened for writing.
      command: [sh, -c, "umask 0377 && exec cp -f /sources/* /run/coupond/"]
      securityContext: {{- include "coupond.locked" . | nindent 8 }}
      resources:
        requests: {cpu: 10m, memory: 16Mi}
        limits: {memory: 16Mi}
      volumeMounts:
        - {name: sources, mountPath: /sources, readOnly: true}
        - {name: files, mountPath: /run/coupond}
  {{- end }}
  containers:
    - name: coupond
      image: {{ include "coupond.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve, --config, /etc/coupond/coupond.toml]
      {{- with .Values.env }}
      env: {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - {name: http, containerPort: 8080}
        - {name: admin, containerPort: 8081}
      securityContext: {{- include "coupond.locked" . | nindent 8 }}
      resources: {{- toYaml .Values.resources | nindent 8 }}
      startupProbe:
        {{- include "coupond.probe" (merge (dict "path" "/health/live") .) | nindent 8 }}
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: {{ div (add (int .Values.probes.startupSeconds) 1) 2 }}
      livenessProbe:
        {{- include "coupond.probe" (merge (dict "path" "/health/live") .) | nindent 8 }}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        {{- include "coupond.probe" (merge (dict "path" "/health/ready") .) | nindent 8 }}
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 2
      volumeMounts:
        - {name: settings, mountPath: /etc/coupond, readOnly: true}
        {{- if .Values.files }}
        - {name: files, mountPath: /run/coupond, readOnly: true}
        {{- end }}
        {{- if eq .Values.mode "embedded" }}
        - {name: data, mountPath: /var/lib/coupond}
        {{- end }}
  volumes:
    - name: settings
      configMap: {name: {{ include "coupond.name" . }}}
    {{- if .Values.files }}
    - name: sources
      projected:
        # Kubernetes lets the pod's group read these whatever this says. Only the copier mounts them.
        defaultMode: 0440
        sources:
          {{- range $path, $from := .Values.files }}
          {{- if $from.secret }}
          - secret:
              name: {{ $from.secret }}
          {{- else }}
          - configMap:
              name: {{ $from.configMap }}
          {{- end }}
              items:
                - {key: {{ $from.key | quote }}, path: {{ $path | quote }}}
          {{- end }}
    - name: files
      emptyDir: {medium: Memory, sizeLimit: 4Mi}
    {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .Values.topologySpreadConstraints }}
  topologySpreadConstraints: {{- toYaml .Values.topologySpreadConstraints | nindent 4 }}
  {{- else if eq .Values.mode "distributed" }}
  topologySpreadConstraints:
    {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      # Nodes of one version are spread, whatever is left of the one before.
      matchLabelKeys: [pod-template-hash]
      labelSelector:
        matchLabels:
          {{- include "coupond.selector" $ | nindent 10 }}
    {{- end }}
  {{- end }}
{{- end -}}

{{/* What no container of the pod may do. */}}
{{- define "coupond.locked" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}
