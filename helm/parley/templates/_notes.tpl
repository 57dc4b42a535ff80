{{/* Pools of all replicas together, with the pod more that a rollout starts. */}}
{{- define "parley.connectionsMax" -}}
{{- $sum := 0 -}}
{{- range $name, $table := include "parley.components" . | fromYaml -}}
{{- if has "database" $table.stores -}}
{{- $component := index $.Values.components $name -}}
{{- $scaling := $component.autoscaling | default $component.queueScaling -}}
{{- $replicas := eq (include "parley.isScaled" $component) "true" | ternary $scaling.maxReplicas $component.replicas -}}
{{- $settings := include "parley.settings" (dict "root" $ "name" $name "table" $table) | fromYaml -}}
{{/* Where there are several instances, one connection more to each asks which shards it has. */}}
{{- $asking := ternary 1 0 (and (ne $.Values.secrets.database.shardsKey "") (ne $table.deployable "auth")) -}}
{{- $each := add (int $settings.PARLEY_DATABASE_POOL_SIZE) (int $table.connections) $asking -}}
{{- $sum = add $sum (mul (add (int $replicas) 1) $each) -}}
{{- end -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{/* What an operator should know to be unsafe, each as one line. */}}
{{- define "parley.warnings" -}}
{{- $edge := .Values.settings.edge -}}
{{- $outside := or .Values.ingress.enabled .Values.httpRoute.enabled (ne .Values.service.type "ClusterIP") -}}
{{- if not .Values.image.digest }}
- "image: a tag can be moved; name image.digest, so that every pod runs what was tested"
{{- end }}
{{- if not .Values.networkPolicy.enabled }}
- "networkPolicy: off; gRPC ports and metrics are open to every pod of the cluster"
{{- end }}
{{- if not .Values.mtls.enabled }}
- "mtls: off; calls between the processes travel in the clear, and any pod that a policy lets in may make them"
{{- end }}
{{- if and .Values.mtls.enabled .Values.grpcRoute.enabled (not .Values.mtls.consumers) }}
- "grpcRoute: nobody in mtls.consumers; the Gateway has to show a certificate whose SPIFFE id is named there"
{{- end }}
{{- if and $outside (not (hasPrefix "https://" ($edge.PARLEY_EDGE_PUBLIC_URL | default ""))) }}
- "settings.edge.PARLEY_EDGE_PUBLIC_URL: not https; passwords, keys and session cookies travel in the clear"
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.tlsSecretName) }}
- "ingress: without tlsSecretName it is served in the clear, unless the controller has a certificate of its own"
{{- end }}
{{- if eq (toString $edge.PARLEY_EDGE_COOKIE_SECURE) "false" }}
- "settings.edge.PARLEY_EDGE_COOKIE_SECURE: off; session cookies travel in the clear"
{{- end }}
{{- if and (or .Values.ingress.enabled .Values.httpRoute.enabled) (not $edge.PARLEY_EDGE_FORWARDED_ALLOW_IPS) }}
- "settings.edge.PARLEY_EDGE_FORWARDED_ALLOW_IPS: empty; the proxy in front is taken for the client of every request"
{{- end }}
{{- if eq ($edge.PARLEY_EDGE_FORWARDED_ALLOW_IPS | default "") "*" }}
- "settings.edge.PARLEY_EDGE_FORWARDED_ALLOW_IPS: everybody may claim to be anybody's proxy"
{{- end }}
{{- if eq (.Values.settings.auth.PARLEY_AUTH_REGISTRATION | default "") "open" }}
- "settings.auth.PARLEY_AUTH_REGISTRATION: open; anybody who reaches the edge can create an organization"
{{- end }}
{{- if .Values.settings.inference.PARLEY_INFERENCE_SCRIPTED }}
- "settings.inference.PARLEY_INFERENCE_SCRIPTED: scripted models are for tests"
{{- end }}
{{- if eq .Values.settings.common.PARLEY_LOG_LEVEL "DEBUG" }}
- "settings.common.PARLEY_LOG_LEVEL: DEBUG is loud and slow"
{{- end }}
{{- range $name, $table := include "parley.components" . | fromYaml }}
{{- if (include "parley.settings" (dict "root" $ "name" $name "table" $table) | fromYaml).PARLEY_REFLECTION }}
- "{{ $name }}: PARLEY_REFLECTION tells every caller which methods there are"
{{- end }}
{{- $component := index $.Values.components $name }}
{{- if and $table.serves (ne (include "parley.isScaled" $component) "true") (lt (int $component.replicas) 2) }}
- "components.{{ $name }}: one replica; its restart is an outage"
{{- end }}
{{- end }}
{{- if .Values.migrations.afterRestore }}
- "migrations.afterRestore: on; every further upgrade empties the caches and ends all sessions again"
{{- end }}
{{- if not .Values.secrets.database.migrateKey }}
- "secrets.database: the processes may change the schema; a role of its own for migrations (migrateKey) is safer"
{{- end }}
{{- end -}}
