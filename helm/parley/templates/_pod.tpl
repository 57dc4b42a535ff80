{{/* What the restricted profile of pod security asks for, and no token of the cluster. */}}
{{- define "parley.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  {{- with .Values.pod.runAsUser }}
  runAsUser: {{ include "parley.text" . }}
  runAsGroup: {{ include "parley.text" . }}
  fsGroup: {{ include "parley.text" . }}
  {{- end }}
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "parley.containerSecurity" -}}
image: {{ include "parley.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* Where pods may run. */}}
{{- define "parley.placement" -}}
{{- $own := .component | default dict -}}
{{- $pod := .root.Values.pod -}}
{{- with $own.nodeSelector | default $pod.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.tolerations | default $pod.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.priorityClassName | default $pod.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/*
Seconds from SIGTERM to SIGKILL: what the process itself takes at most, and ten to spare. A gRPC service pauses twice,
then ends its calls and then its loops; the edge pauses and drains; a worker drains.
*/}}
{{- define "parley.grace" -}}
{{- $settings := include "parley.settings" . | fromYaml -}}
{{- $drain := $settings.PARLEY_DRAIN_S | ceil | int -}}
{{- $pause := $settings.PARLEY_NOT_SERVING_PAUSE_S | ceil | int -}}
{{- if eq .table.serves "grpc" -}}
{{ add (mul 2 $pause) (mul 2 $drain) 10 }}
{{- else if eq .table.serves "http" -}}
{{ add $pause $drain 10 }}
{{- else -}}
{{ add $drain 10 }}
{{- end -}}
{{- end -}}

{{/*
gRPC services are asked by gRPC itself: the answer is what their callers' own health checks see. A kubelet has no
certificate, so where callers need one it asks on a port of its own. Neither asks the database, so that its failure takes
no pod away. The edge and the workers answer on the second port, which no load can fill.
*/}}
{{- define "parley.probes" -}}
{{- if eq .serves "grpc" }}
startupProbe:
  grpc: {port: {{ .port }}}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 90
readinessProbe:
  grpc: {port: {{ .port }}}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 2
livenessProbe:
  grpc: {port: {{ .port }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- else }}
startupProbe:
  httpGet: {path: /healthz, port: debug}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 90
readinessProbe:
  httpGet: {path: /readyz, port: debug}
  periodSeconds: {{ eq .serves "http" | ternary 2 5 }}
  timeoutSeconds: 3
  failureThreshold: 2
livenessProbe:
  httpGet: {path: /healthz, port: debug}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}
{{- end -}}

{{/*
What restarts pods although their template is the same: Secrets that changed. `lookup` sees them where Helm talks to the
cluster; elsewhere secrets.revision says so.
*/}}
{{- define "parley.secretsChecksum" -}}
{{- $found := list .Values.secrets.revision -}}
{{- $names := list -}}
{{- range $secret := omit .Values.secrets "revision" -}}
{{- if $secret.name -}}
{{- $names = append $names $secret.name -}}
{{- end -}}
{{- end -}}
{{- range $name := $names | uniq | sortAlpha -}}
{{- with lookup "v1" "Secret" $.Release.Namespace $name -}}
{{- $found = append $found (toJson .data) -}}
{{- end -}}
{{- end -}}
{{- $found | join "\n" | sha256sum -}}
{{- end -}}
