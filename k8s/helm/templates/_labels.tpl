{{- define "facilitator.selector" -}}
app.kubernetes.io/name: facilitator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "facilitator.labels" -}}
{{ include "facilitator.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "facilitator.secret" -}}
{{ .Values.secrets.existingSecret | default .Release.Name }}
{{- end }}
