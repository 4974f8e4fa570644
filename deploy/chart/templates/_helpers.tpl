{{- define "terway.labels" -}}
app.kubernetes.io/name: terway
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}
{{- define "terway.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag }}
{{- end }}
{{- define "terway.secret" -}}
{{ .Values.credentials.existingSecret | default "terway-credentials" }}
{{- end }}
