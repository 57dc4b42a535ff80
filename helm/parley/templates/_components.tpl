{{/*
The one table of what runs. Environment, ports, probes, network edges and scaling are read from it; nothing else in the
chart knows a service by name.
  deployable  group of settings           package, command  of `python -m`
  serves      grpc, http or nothing       stores            what it holds connections to
  targets     services that it calls      workload          whether it has a secret of its own towards auth
  providers   whether it calls models     queue             whether turns reach it by the queue
  replicas    whether it answers its callers from read replicas of PostgreSQL
  connections to PostgreSQL beside the pool, as the settings of the product count them (`database_lanes`)
*/}}
{{- define "parley.components" -}}
edge: {deployable: edge, package: edge, command: serve, serves: http, stores: [], targets: [auth, conversation, retrieval, inference], workload: true}
auth: {deployable: auth, package: services.auth, command: serve, serves: grpc, stores: [database, valkey], targets: []}
conversation: {deployable: conversation, package: services.conversation, command: serve, serves: grpc, stores: [database, valkey], targets: [auth, retrieval, inference], workload: true, queue: true, replicas: true, connections: 1}
conversation-worker: {deployable: conversation, package: services.conversation, command: worker, serves: "", stores: [database, valkey], targets: [auth, retrieval, inference], workload: true, queue: true, connections: 2}
retrieval: {deployable: retrieval, package: services.retrieval, command: serve, serves: grpc, stores: [database, valkey], targets: [auth]}
retrieval-worker: {deployable: retrieval, package: services.retrieval, command: worker, serves: "", stores: [database, valkey], targets: [auth]}
inference: {deployable: inference, package: services.inference, command: serve, serves: grpc, stores: [database, valkey], targets: [auth, retrieval], workload: true, providers: true, replicas: true, connections: 2}
{{- end -}}

{{- define "parley.ports" -}}
grpc: 50051
health: 50052
http: 8080
debug: 9090
{{- end -}}

{{/*
The schemas in their order, each by its own command, which needs the database and nothing else. After a restore, what
Valkey still knows of the time that was given up goes too, before any process is there that could put it back.
*/}}
{{- define "parley.migrationSteps" -}}
{{- range list "auth" "conversation" "retrieval" "inference" }}
- {name: {{ . }}, deployable: {{ . }}, command: migrate, stores: [database], targets: []}
{{- end }}
{{- if .Values.migrations.afterRestore }}
{{- range list "auth" "conversation" "retrieval" "inference" }}
- {name: {{ . }}-after-restore, deployable: {{ . }}, command: after-restore, stores: {{ eq . "auth" | ternary "[database, valkey]" "[valkey]" }}, targets: []}
{{- end }}
{{- end }}
{{- end -}}

{{/* A value as a process reads it. Numbers of YAML are floating, and 26214400 must not become 2.62144e+07. */}}
{{- define "parley.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- printf "%.0f" . -}}
{{- else -}}
{{- toString . -}}
{{- end -}}
{{- end -}}

{{/* Settings of a component: of all, of its deployable, of itself; (dict "root" $ "name" "auth" "table" $row) */}}
{{- define "parley.settings" -}}
{{- $all := .root.Values.settings -}}
{{- $own := (index .root.Values.components .name).settings | default dict -}}
{{- mergeOverwrite (deepCopy $all.common) (deepCopy (index $all .table.deployable)) (deepCopy $own) | toYaml -}}
{{- end -}}

{{- define "parley.secretEnv" -}}
- name: {{ .variable }}
  valueFrom:
    secretKeyRef: {name: {{ .name }}, key: {{ .key }}}
{{- end -}}

{{/* Environment of a component beside its settings; (dict "root" $ "table" $row) */}}
{{- define "parley.connections" -}}
{{- $root := .root -}}
{{- $secrets := .root.Values.secrets -}}
{{- range $target := .table.targets }}
- name: PARLEY_{{ upper $target }}_TARGET
  value: {{ include "parley.address" (dict "root" $root "component" $target) }}:{{ (include "parley.ports" $root | fromYaml).grpc }}
{{- end }}
{{- if has "database" .table.stores }}
{{ include "parley.secretEnv" (dict "variable" "PARLEY_DATABASE_URL" "name" $secrets.database.name "key" (.databaseKey | default $secrets.database.key)) }}
{{- if and $secrets.database.shardsKey (ne .table.deployable "auth") }}
{{ include "parley.secretEnv" (dict "variable" "PARLEY_DATABASE_SHARDS" "name" $secrets.database.name "key" (.shardsKey | default $secrets.database.shardsKey)) }}
{{- end }}
{{- if and $secrets.database.replicasKey .table.replicas }}
{{ include "parley.secretEnv" (dict "variable" "PARLEY_DATABASE_REPLICAS" "name" $secrets.database.name "key" $secrets.database.replicasKey) }}
{{- end }}
{{- end }}
{{- if has "valkey" .table.stores }}
{{ include "parley.secretEnv" (dict "variable" "PARLEY_VALKEY_URL" "name" $secrets.valkey.name "key" $secrets.valkey.key) }}
{{- end }}
{{- end -}}

{{- define "parley.env" -}}
{{- $ports := include "parley.ports" .root | fromYaml -}}
{{- $values := .root.Values -}}
{{- $secrets := $values.secrets -}}
{{- range $variable, $value := include "parley.settings" . | fromYaml }}
{{- if not (kindIs "invalid" $value) }}
- name: {{ $variable }}
  value: {{ include "parley.text" $value | quote }}
{{- end }}
{{- end }}
- name: PARLEY_DEBUG_LISTEN
  value: {{ printf "%s:%v" $values.listenHost $ports.debug | quote }}
{{- with .table.serves }}
- name: PARLEY_{{ upper . }}_LISTEN
  value: {{ printf "%s:%v" $values.listenHost (index $ports .) | quote }}
{{- end }}
{{- include "parley.connections" . }}
{{- include "parley.certificatesEnv" . }}
{{- if .table.workload }}
{{ include "parley.secretEnv" (dict "variable" "PARLEY_WORKLOAD_SECRET" "name" $secrets.workloads.name "key" .table.deployable) }}
{{- end }}
{{- if eq .table.deployable "auth" }}
{{ include "parley.secretEnv" (dict "variable" "PARLEY_AUTH_KEY_ENCRYPTION_SECRET" "name" $secrets.auth.name "key" $secrets.auth.keyEncryptionKey) }}
{{ include "parley.secretEnv" (dict "variable" "PARLEY_AUTH_WORKLOADS" "name" $secrets.workloads.name "key" $secrets.workloads.hashesKey) }}
{{- end }}
{{- if .table.queue }}
- name: PARLEY_QUEUE
  value: {{ $values.queue.kind }}
{{- if eq $values.queue.kind "kafka" }}
- name: PARLEY_KAFKA_BOOTSTRAP
  value: {{ $values.queue.kafka.bootstrap | quote }}
- name: PARLEY_KAFKA_PREFIX
  value: {{ $values.queue.kafka.prefix | quote }}
{{- with $secrets.kafka }}{{- if .name }}
{{ include "parley.secretEnv" (dict "variable" "PARLEY_KAFKA_OPTIONS" "name" .name "key" .key) }}
{{- end }}{{- end }}
{{- end }}
{{- end }}
{{- if .table.providers }}
{{- with $secrets.openai }}{{- if .name }}
{{ include "parley.secretEnv" (dict "variable" "OPENAI_API_KEY" "name" .name "key" .key) }}
{{- end }}{{- end }}
{{- with $secrets.anthropic }}{{- if .name }}
{{ include "parley.secretEnv" (dict "variable" "ANTHROPIC_API_KEY" "name" .name "key" .key) }}
{{- end }}{{- end }}
{{- if $values.providers.configMap }}
- name: PARLEY_INFERENCE_PROVIDERS_FILE
  value: /etc/parley/{{ $values.providers.file }}
{{- end }}
{{- end }}
{{- end -}}
