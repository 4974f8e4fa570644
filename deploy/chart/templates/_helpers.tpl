{{- define "terway.labels" -}}
app.kubernetes.io/name: terway
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}
{{- define "terway.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag }}
{{- end }}
{{- define "terway.network" -}}
{{ .Values.eniConfig.network | default "terway" }}
{{- end }}
{{- define "terway.admission" -}}
{{ and .Values.admission.enabled (ne (include "terway.network" .) "flannel") }}
{{- end }}
{{- define "terway.nodeAffinity" -}}
nodeAffinity:
  requiredDuringSchedulingIgnoredDuringExecution:
    nodeSelectorTerms:
      - matchExpressions:
          - {key: type, operator: NotIn, values: [virtual-kubelet]}
          - {key: network.terway.dev/ignore, operator: NotIn, values: ["true"]}
          - {key: k8s.aliyun.com/ignore-by-terway, operator: NotIn, values: ["true"]}
{{- end }}
{{- define "terway.flannelNetConf" -}}
{{ dict "Network" .Values.eniConfig.pod_cidr "EnableNFTables" .Values.flannel.nftables "Backend" (dict "Type" "alloc") | toPrettyJson }}
{{- end }}
{{- define "terway.secret" -}}
{{ .Values.credentials.existingSecret | default "terway-credentials" }}
{{- end }}
