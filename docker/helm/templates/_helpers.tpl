{{/* Name of the release's objects. Leaves room for suffixes within 63 characters. */}}
{{- define "coupond.name" -}}
{{- $name := .Release.Name -}}
{{- if not (contains .Chart.Name $name) }}{{ $name = printf "%s-%s" $name .Chart.Name }}{{ end -}}
{{- $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "coupond.selector" -}}
app.kubernetes.io/name: coupond
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "coupond.labels" -}}
{{ include "coupond.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "coupond.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* Address of a listener with its port, a number. */}}
{{- define "coupond.listen" -}}
{{- $address := .Values.bindAddress -}}
{{- if contains ":" $address }}{{ $address = printf "[%s]" $address }}{{ end -}}
{{- printf "%s:%d" $address (int .port) -}}
{{- end -}}

{{/* "true" if the setting, a path with dots, is given in settings. */}}
{{- define "coupond.given" -}}
{{- $found := .settings -}}
{{- range splitList "." .path -}}
{{- if kindIs "map" $found }}{{ $found = get $found . }}{{ else }}{{ $found = "" }}{{ end -}}
{{- end -}}
{{- if not (or (kindIs "invalid" $found) (has (toString $found) (list "" "[]"))) }}true{{ end -}}
{{- end -}}

{{/* A value as TOML. A text in JSON is one in TOML too. */}}
{{- define "coupond.value" -}}
{{- if kindIs "slice" . -}}
[{{ range $at, $one := . }}{{ if $at }}, {{ end }}{{ include "coupond.value" $one }}{{ end }}]
{{- else if kindIs "map" . -}}
{ {{ $first := true }}{{ range $key, $one := . }}{{ if not $first }}, {{ end }}{{ $first = false }}
{{- toJson $key }} = {{ include "coupond.value" $one }}{{ end }} }
{{- else -}}
{{ toJson . }}
{{- end -}}
{{- end -}}

{{/* Settings as lines of TOML, each with its whole path. */}}
{{- define "coupond.lines" -}}
{{- range $key, $value := .table }}
{{- $path := printf "%s%s" $.prefix (ternary $key (toJson $key) (regexMatch "^[A-Za-z0-9_-]+$" $key)) }}
{{- if kindIs "map" $value }}
{{- include "coupond.lines" (dict "prefix" (printf "%s." $path) "table" $value) }}
{{- else if not (kindIs "invalid" $value) }}
{{ $path }} = {{ include "coupond.value" $value }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Seconds of api.drain, rounded up. */}}
{{- define "coupond.drain" -}}
{{- $drain := (dig "api" "drain" "5s" .Values.settings) | toString -}}
{{- $number := int (regexFind "^[0-9]+" $drain) -}}
{{- if regexMatch "^[0-9]+ms$" $drain -}}{{ div (add $number 999) 1000 }}
{{- else if regexMatch "^[0-9]+s$" $drain -}}{{ $number }}
{{- else if regexMatch "^[0-9]+m$" $drain -}}{{ mul $number 60 }}
{{- else -}}{{ fail (printf "settings.api.drain is %q, must be a whole number and ms, s or m, for example \"10s\"" $drain) }}
{{- end -}}
{{- end -}}

{{/* Ends with every rule between values that is broken. */}}
{{- define "coupond.check" -}}
{{- $problems := list -}}
{{- $settings := .Values.settings -}}
{{- range $path, $why := dict
    "api.listen" "bindAddress sets it"
    "admin.listen" "bindAddress sets it"
    "embedded.dir" "it is on the volume of the pod"
    "admin.token" "a Secret holds it: set files.\"admin.token_file\""
    "secret.key" "a Secret holds it: set files.\"secret.key_file\""
    "kafka.sasl.password" "a Secret holds it: set files.\"kafka.sasl.password_file\""
    "cql.password" "a Secret holds it: set files.\"cql.password_file\""
    "api.gateway_token" "a Secret holds it: set files.\"api.gateway_token_file\"" -}}
{{- if include "coupond.given" (dict "settings" $settings "path" $path) -}}
{{- $problems = append $problems (printf "settings.%s must be left out: %s" $path $why) -}}
{{- end -}}
{{- end -}}
{{- range $path, $_ := .Values.files -}}
{{- if include "coupond.given" (dict "settings" $settings "path" $path) -}}
{{- $problems = append $problems (printf "settings.%s is given, and files.%q too: leave out one of them" $path $path) -}}
{{- end -}}
{{- end -}}
{{- if eq .Values.mode "distributed" -}}
{{- range $path, $example := dict "kafka.brokers" "[\"kafka:9092\"]" "cql.nodes" "[\"scylla:9042\"]" -}}
{{- if not (include "coupond.given" (dict "settings" $settings "path" $path)) -}}
{{- $problems = append $problems (printf "settings.%s is missing, and mode is \"distributed\": set for example %s" $path $example) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if not (or (hasKey .Values.files "admin.token_file") (dig "admin" "keys" list $settings)) -}}
{{- $problems = append $problems "nobody could administer: put a token of at least 16 bytes into a Secret and set files.\"admin.token_file\", or set settings.admin.keys" -}}
{{- end -}}
{{- $identity := dig "api" "identity" "trusted" $settings -}}
{{- if and (eq (toString $identity) "trusted") (not (dig "api" "trust_network" false $settings)) -}}
{{- $problems = append $problems "any pod could act as any user: set settings.api.identity, or settings.api.trust_network = true if only a gateway can reach the pods (see networkPolicy)" -}}
{{- end -}}
{{- if and (hasKey .Values.files (printf "%s.tls.client_ca_file" (include "coupond.probed" .))) -}}
{{- $problems = append $problems (printf "probes.listener is %q, which wants client certificates: probe the other listener" .Values.probes.listener) -}}
{{- end -}}
{{- $grace := .Values.terminationGracePeriodSeconds -}}
{{- $needed := add 10 (int (include "coupond.drain" .)) -}}
{{- if and $grace (lt (int $grace) (int $needed)) -}}
{{- $problems = append $problems (printf "terminationGracePeriodSeconds is %d, must be at least api.drain and 10 s (%d), or nodes are killed while they settle requests" (int $grace) (int $needed)) -}}
{{- end -}}
{{- if $problems -}}
{{- fail (printf "\n\nthe values have problems:\n  - %s\n" (join "\n  - " $problems)) -}}
{{- end -}}
{{- end -}}

{{/* The group of settings of the listener that is probed. */}}
{{- define "coupond.probed" -}}
{{ ternary "admin" "api" (eq .Values.probes.listener "admin") }}
{{- end -}}

{{- define "coupond.probe" -}}
httpGet:
  path: {{ .path }}
  port: {{ ternary "admin" "http" (eq .Values.probes.listener "admin") }}
  scheme: {{ ternary "HTTPS" "HTTP" (hasKey .Values.files (printf "%s.tls.cert_file" (include "coupond.probed" .))) }}
{{- end -}}
