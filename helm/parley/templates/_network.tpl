{{/* Rules of network policies; each is empty where its list is. */}}
{{- define "parley.egressTo" -}}
{{- if .to }}
- to: {{- toYaml .to | nindent 4 }}
  ports:
    {{- range .ports }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end }}
{{- end -}}

{{- define "parley.egressDns" -}}
{{- if .Values.networkPolicy.dns }}
- to: {{- toYaml .Values.networkPolicy.dns | nindent 4 }}
  ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
{{- end }}
{{- end -}}

{{/* (dict "root" $ "table" $row) */}}
{{- define "parley.egress" -}}
{{- $root := .root -}}
{{- $policy := .root.Values.networkPolicy -}}
{{- include "parley.egressDns" .root }}
{{- range $target := .table.targets }}
- to:
    - podSelector:
        matchLabels: {{- include "parley.selector" (dict "root" $root "component" $target) | nindent 10 }}
  ports:
    - {protocol: TCP, port: {{ (include "parley.ports" $root | fromYaml).grpc }}}
{{- end }}
{{- range $store := .table.stores }}
{{- include "parley.egressTo" (index $policy $store) }}
{{- end }}
{{- if and .table.queue (eq .root.Values.queue.kind "kafka") }}
{{- include "parley.egressTo" $policy.kafka }}
{{- end }}
{{- if .table.providers }}
{{- include "parley.egressTo" $policy.providers }}
{{- end }}
{{- if .root.Values.settings.common.PARLEY_OTLP_ENDPOINT }}
{{- include "parley.egressTo" $policy.tracing }}
{{- end }}
{{- end -}}

{{/* (dict "root" $ "name" "auth" "table" $row): who calls is read from everybody's own row. */}}
{{- define "parley.ingress" -}}
{{- $root := .root -}}
{{- $name := .name -}}
{{- $policy := .root.Values.networkPolicy -}}
{{- $ports := include "parley.ports" .root | fromYaml -}}
{{- if eq .table.serves "grpc" }}
- from:
    {{- range $caller, $row := include "parley.components" .root | fromYaml }}
    {{- if has $name $row.targets }}
    - podSelector:
        matchLabels: {{- include "parley.selector" (dict "root" $root "component" $caller) | nindent 10 }}
    {{- end }}
    {{- end }}
    {{- with $policy.grpcClients }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    - {protocol: TCP, port: {{ $ports.grpc }}}
{{- end }}
{{- if eq .table.serves "http" }}
- from:
    {{- if $root.Values.test.apiKeySecret }}
    - podSelector:
        matchLabels: {{- include "parley.selector" (dict "root" $root "component" "test") | nindent 10 }}
    {{- end }}
    {{- with $policy.edgeClients }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    - {protocol: TCP, port: {{ $ports.http }}}
{{- end }}
{{- with $policy.scrapers }}
- from: {{- toYaml . | nindent 4 }}
  ports:
    - {protocol: TCP, port: {{ $ports.debug }}}
{{- end }}
{{- end -}}
