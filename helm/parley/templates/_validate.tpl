{{/* Whether something else than the chart decides on the number of replicas. */}}
{{- define "parley.isScaled" -}}
{{- if .queueScaling -}}
{{ ne .queueScaling.kind "none" }}
{{- else -}}
{{ .autoscaling.enabled }}
{{- end -}}
{{- end -}}

{{/* Quickly up, since people wait; slowly down, since streams that are ended have to be taken up elsewhere. */}}
{{- define "parley.scalingBehavior" -}}
scaleUp:
  stabilizationWindowSeconds: 0
  selectPolicy: Max
  policies:
    - {type: Percent, value: 100, periodSeconds: 30}
    - {type: Pods, value: 2, periodSeconds: 30}
scaleDown:
  stabilizationWindowSeconds: 300
  selectPolicy: Max
  policies:
    - {type: Pods, value: 1, periodSeconds: 60}
{{- end -}}

{{/* What a schema cannot say: values that do not go together. */}}
{{- define "parley.validate" -}}
{{- range $name, $component := .Values.components -}}
{{- $scaling := $component.autoscaling | default $component.queueScaling -}}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) -}}
{{- fail (printf "components.%s: minReplicas (%v) is more than maxReplicas (%v)" $name $scaling.minReplicas $scaling.maxReplicas) -}}
{{- end -}}
{{- if and (eq ($scaling.kind | default "") "keda") (not $scaling.prometheusUrl) -}}
{{- fail (printf "components.%s.queueScaling: kind keda needs prometheusUrl, such as http://prometheus.monitoring:9090" $name) -}}
{{- end -}}
{{- end -}}
{{- if and (eq .Values.queue.kind "kafka") (not .Values.queue.kafka.bootstrap) -}}
{{- fail "queue: kind kafka needs kafka.bootstrap, such as kafka-bootstrap.kafka:9092" -}}
{{- end -}}
{{- range $route := list "httpRoute" "grpcRoute" -}}
{{- $values := index $.Values $route -}}
{{- if and $values.enabled (not $values.parentRefs) -}}
{{- fail (printf "%s.enabled needs %s.parentRefs: the Gateway that it belongs to" $route $route) -}}
{{- end -}}
{{- end -}}
{{- range $id, $name := .Values.mtls.consumers -}}
{{- range $component, $row := include "parley.components" $ | fromYaml -}}
{{- if eq $name $row.deployable -}}
{{- fail (printf "mtls.consumers: %s may not be called %s, which is a workload of the release" $id $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hostnames) -}}
{{- fail "ingress.enabled needs ingress.hostnames: without a name the rule would take every host's requests" -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled .Values.grpcRoute.enabled (not .Values.networkPolicy.grpcClients) -}}
{{- fail "grpcRoute.enabled needs networkPolicy.grpcClients: the Gateway's own pods, or its calls are dropped" -}}
{{- end -}}
{{- if and .Values.migrations.afterRestore (not .Values.migrations.enabled) -}}
{{- fail "migrations.afterRestore needs migrations.enabled: the job that it adds to" -}}
{{- end -}}
{{- if and .Values.providers.keysSecret (not .Values.providers.configMap) -}}
{{- fail "providers.keysSecret needs providers.configMap: a providers.toml that names its keys" -}}
{{- end -}}
{{- end -}}
