{{- define "trunkline.name" -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* What a selector names, for a part of the deployment: {root, part}. */}}
{{- define "trunkline.selector" -}}
app.kubernetes.io/name: trunkline
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "trunkline.labels" -}}
{{ include "trunkline.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "trunkline.image" -}}
image: {{ printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}

{{/* Of every pod: nobody's privileges, and no way to the cluster's API. */}}
{{- define "trunkline.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "trunkline.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
{{- end }}

{{/*
The programs take no key file that others may read, and Kubernetes shows Secrets to a pod's whole group. So each pod
makes itself the directory that `init` makes elsewhere, in memory: {root, file}.
*/}}
{{- define "trunkline.prepare" -}}
- name: prepare
  {{- include "trunkline.image" .root | nindent 2 }}
  command: ["/bin/sh", "-euc"]
  args:
    - |
      umask 077
      cd /var/lib/trunkline
      mkdir -p keys data
      cp -f "/config/$CONFIG.toml" {{ .file }}
      cp -f /secrets/* keys/
      {{- if .bootstrap }}
      # What `init` left for the first start: whoever leads first carries it out, the others drop theirs.
      ! test -e /bootstrap/bootstrap.json || cp -f /bootstrap/bootstrap.json data/
      {{- end }}
  env:
    - name: CONFIG
      valueFrom: { fieldRef: { fieldPath: {{ .config }} } }
  resources:
    requests: { cpu: 10m, memory: 16Mi }
    limits: { memory: 64Mi }
  {{- include "trunkline.container" .root | nindent 2 }}
  volumeMounts:
    - { name: config, mountPath: /config, readOnly: true }
    - { name: secrets, mountPath: /secrets, readOnly: true }
    {{- if .bootstrap }}
    - { name: bootstrap, mountPath: /bootstrap, readOnly: true }
    {{- end }}
    - { name: state, mountPath: /var/lib/trunkline }
{{- end }}

{{/* Ties pods to the machines of a list, one pod on each: {root, part, nodes}. */}}
{{- define "trunkline.machines" -}}
affinity:
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms:
        - matchExpressions:
            - key: kubernetes.io/hostname
              operator: In
              values:
                {{- range .nodes }}
                - {{ .host | quote }}
                {{- end }}
  podAntiAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- include "trunkline.selector" . | nindent 12 }}
{{- end }}

{{- define "trunkline.budget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "trunkline.name" .root }}-{{ .part }}
  labels:
    {{- include "trunkline.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels:
      {{- include "trunkline.selector" . | nindent 6 }}
{{- end }}

{{/* {root, part, port, scheme}. */}}
{{- define "trunkline.monitor" -}}
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  name: {{ include "trunkline.name" .root }}-{{ .part }}
  labels:
    {{- include "trunkline.labels" . | nindent 4 }}
    {{- with .root.Values.serviceMonitor.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  selector:
    matchLabels:
      {{- include "trunkline.selector" . | nindent 6 }}
      trunkline/metrics: "true"
  endpoints:
    - port: {{ .port }}
      path: /metrics
      interval: {{ .root.Values.serviceMonitor.interval }}
      scheme: {{ lower .scheme }}
      {{- if eq .scheme "HTTPS" }}
      # Pods are asked by address, which their certificate does not name.
      tlsConfig: { insecureSkipVerify: true }
      {{- end }}
{{- end }}

{{- define "trunkline.scheme" -}}
{{ if . }}HTTPS{{ else }}HTTP{{ end }}
{{- end }}
