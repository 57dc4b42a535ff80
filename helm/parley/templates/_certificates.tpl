{{/* Where a pod has its certificates. */}}
{{- define "parley.certificatesFolder" -}}
/run/secrets/mesh
{{- end -}}

{{/* Secret with the certificate of a component: (dict "root" $ "component" "auth") */}}
{{- define "parley.certificatesSecret" -}}
{{ include "parley.fullname" .root }}-{{ .component }}-tls
{{- end -}}

{{/* Whom a certificate names: (dict "root" $ "workload" "auth"). API and workers of a service are one workload. */}}
{{- define "parley.spiffeId" -}}
spiffe://{{ .root.Values.mtls.trustDomain }}/ns/{{ .root.Release.Namespace }}/{{ include "parley.fullname" .root }}/{{ .workload }}
{{- end -}}

{{/* Who may call a component, by SPIFFE id: those that have it among their targets, and the consumers. */}}
{{- define "parley.peers" -}}
{{- $peers := deepCopy .root.Values.mtls.consumers -}}
{{- range $caller, $row := include "parley.components" .root | fromYaml -}}
{{- if has $.name $row.targets -}}
{{- $_ := set $peers (include "parley.spiffeId" (dict "root" $.root "workload" $row.deployable)) $row.deployable -}}
{{- end -}}
{{- end -}}
{{- toJson $peers -}}
{{- end -}}

{{/* (dict "root" $ "name" "auth" "table" $row) */}}
{{- define "parley.certificatesEnv" -}}
{{- with .root.Values.mtls }}
{{- if .enabled }}
- name: PARLEY_MESH_TLS_FOLDER
  value: {{ include "parley.certificatesFolder" $.root }}
{{- if .bundle.configMap }}
- name: PARLEY_MESH_TLS_BUNDLE
  value: {{ include "parley.certificatesFolder" $.root }}-bundle/{{ .bundle.key }}
{{- end }}
{{- if eq $.table.serves "grpc" }}
- name: PARLEY_MESH_TLS_PEERS
  value: {{ include "parley.peers" $ | quote }}
- name: PARLEY_HEALTH_LISTEN
  value: {{ printf "%s:%v" $.root.Values.listenHost (include "parley.ports" $.root | fromYaml).health | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "parley.certificatesMounts" -}}
{{- with .root.Values.mtls }}
{{- if .enabled }}
- {name: certificates, mountPath: {{ include "parley.certificatesFolder" $.root }}, readOnly: true}
{{- if .bundle.configMap }}
- {name: certificates-bundle, mountPath: {{ include "parley.certificatesFolder" $.root }}-bundle, readOnly: true}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "parley.certificatesVolumes" -}}
{{- with .root.Values.mtls }}
{{- if .enabled }}
- name: certificates
  secret: {secretName: {{ include "parley.certificatesSecret" (dict "root" $.root "component" $.name) }}, defaultMode: 0440}
{{- if .bundle.configMap }}
- name: certificates-bundle
  configMap: {name: {{ .bundle.configMap }}}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}
