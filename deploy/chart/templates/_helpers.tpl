{{- define "terway.labels" -}}
{{ include "terway.podLabels" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}
{{- /* Without the chart's version: it must not restart pods by itself. */ -}}
{{- define "terway.podLabels" -}}
app.kubernetes.io/name: terway
app.kubernetes.io/part-of: terway
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}
{{- define "terway.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ with .Values.image.digest }}@{{ . }}{{ end }}
{{- end }}
{{- define "terway.network" -}}
{{ .Values.eniConfig.network | default "terway" }}
{{- end }}
{{- define "terway.admission" -}}
{{ and .Values.admission.enabled (ne (include "terway.network" .) "flannel") }}
{{- end }}
{{- /* Of every node on which pods of Terway run: not a virtual one, not one that is left alone, and of an architecture
that the image has. */ -}}
{{- define "terway.nodes" -}}
- {key: type, operator: NotIn, values: [virtual-kubelet]}
- {key: network.terway.dev/ignore, operator: NotIn, values: ["true"]}
- {key: k8s.aliyun.com/ignore-by-terway, operator: NotIn, values: ["true"]}
- {key: kubernetes.io/arch, operator: In, values: [amd64, arm64]}
{{- end }}
{{- /* An affinity of the values, to which terway.nodes is added: terms are alternatives, so each gets it. */ -}}
{{- define "terway.affinity" -}}
{{- $affinity := deepCopy . }}
{{- $node := get $affinity "nodeAffinity" | default dict }}
{{- $terms := list }}
{{- range dig "requiredDuringSchedulingIgnoredDuringExecution" "nodeSelectorTerms" (list dict) $node }}
{{- $terms = append $terms (set . "matchExpressions" (concat (include "terway.nodes" $ | fromYamlArray) (get . "matchExpressions" | default list))) }}
{{- end }}
{{- $_ := set $node "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" $terms) }}
{{- set $affinity "nodeAffinity" $node | toYaml }}
{{- end }}
{{- define "terway.nodeSelector" -}}
{{ merge (dict "kubernetes.io/os" "linux") . | toYaml }}
{{- end }}
{{- /* What the values say of the pods of controller and agents alike: dict "root" $ "of" .Values.controller. */ -}}
{{- define "terway.podSpec" -}}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
nodeSelector: {{- include "terway.nodeSelector" .of.nodeSelector | nindent 2 }}
affinity: {{- include "terway.affinity" (.of.affinity | default dict) | nindent 2 }}
{{- with .of.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- /* The address of the API server, if it is not that of the Service, and .of.extraEnv. */ -}}
{{- define "terway.env" -}}
{{- with .root.Values.apiServer.host }}
- {name: KUBERNETES_SERVICE_HOST, value: {{ . | quote }}}
- {name: KUBERNETES_SERVICE_PORT, value: {{ $.root.Values.apiServer.port | quote }}}
{{- end }}
{{- with .of.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- /* Flags of the log. */ -}}
{{- define "terway.log" -}}
{{- $flags := list -}}
{{- if ne .Values.log.format "text" }}{{ $flags = append $flags (printf "--log-format=%s" .Values.log.format) }}{{ end -}}
{{- if eq .Values.log.level "debug" }}{{ $flags = append $flags "--verbose" }}{{ end -}}
{{- with $flags }}{{ toYaml . }}{{ end -}}
{{- end }}
{{- define "terway.flannelNetConf" -}}
{{ dict "Network" .Values.eniConfig.pod_cidr "EnableNFTables" .Values.flannel.nftables "Backend" (dict "Type" "alloc") | toPrettyJson }}
{{- end }}
{{- define "terway.secret" -}}
{{ .Values.credentials.existingSecret | default "terway-credentials" }}
{{- end }}
{{- /* Flags of terway-controller: how it reaches the cloud. */ -}}
{{- define "terway.toTheCloud" -}}
- --credentials={{ .Values.credentials.source }}
- --secret-dir=/etc/terway-credentials
- --endpoint-network={{ .Values.controller.endpointNetwork }}
{{- range $action, $perMinute := .Values.controller.cloudLimits }}
- --cloud-limits={{ $action }}={{ int $perMinute }}
{{- end }}
{{- with .Values.controller.ecsEndpoint }}
- --ecs-endpoint={{ . }}
{{- end }}
{{- with .Values.controller.vpcEndpoint }}
- --vpc-endpoint={{ . }}
{{- end }}
{{- with .Values.controller.slbEndpoint }}
- --slb-endpoint={{ . }}
{{- end }}
{{- with .Values.controller.nlbEndpoint }}
- --nlb-endpoint={{ . }}
{{- end }}
{{- with .Values.controller.stsEndpoint }}
- --sts-endpoint={{ . }}
{{- end }}
{{- with .Values.credentials.role }}
- --role={{ . }}
{{- end }}
{{- if eq .Values.credentials.source "rrsa" }}
- --role-arn={{ .Values.credentials.roleARN }}
- --oidc-provider-arn={{ .Values.credentials.oidcProviderARN }}
- --oidc-token-file=/var/run/secrets/oidc/token
{{- end }}
{{- end }}
{{- /* Mounts and volumes of the containers of terway-controller: the credential's, and those of the values. */ -}}
{{- define "terway.controllerMounts" -}}
{{- if or (has .Values.credentials.source (list "secret" "rrsa")) .Values.controller.extraVolumeMounts -}}
volumeMounts:
  {{- if eq .Values.credentials.source "secret" }}
  - {name: credentials, mountPath: /etc/terway-credentials, readOnly: true}
  {{- end }}
  {{- if eq .Values.credentials.source "rrsa" }}
  - {name: oidc, mountPath: /var/run/secrets/oidc, readOnly: true}
  {{- end }}
  {{- with .Values.controller.extraVolumeMounts }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end }}
{{- end }}
{{- define "terway.controllerVolumes" -}}
{{- if or (has .Values.credentials.source (list "secret" "rrsa")) .Values.controller.extraVolumes -}}
volumes:
  {{- if eq .Values.credentials.source "secret" }}
  - name: credentials
    secret: {secretName: {{ include "terway.secret" . }}}
  {{- end }}
  {{- if eq .Values.credentials.source "rrsa" }}
  - name: oidc
    projected:
      sources:
        - serviceAccountToken: {audience: sts.aliyuncs.com, expirationSeconds: 3600, path: token}
  {{- end }}
  {{- with .Values.controller.extraVolumes }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end }}
{{- end }}
{{- /* The probes of a container, with the figures of the values: dict "of" .Values.agent "http" (dict "port" …). */ -}}
{{- define "terway.probes" -}}
startupProbe: {{- merge (dict "httpGet" (merge (dict "path" "/healthz") .http)) .of.startupProbe | toYaml | nindent 2 }}
livenessProbe: {{- merge (dict "httpGet" (merge (dict "path" "/healthz") .http)) .of.livenessProbe | toYaml | nindent 2 }}
readinessProbe: {{- merge (dict "httpGet" (merge (dict "path" "/readyz") .http)) .of.readinessProbe | toYaml | nindent 2 }}
{{- end }}
{{- /* A strategy of updates. The figures of a rolling update, which the values have by default, are for it alone. */ -}}
{{- define "terway.updateStrategy" -}}
{{- if eq .type "RollingUpdate" }}{{ toYaml . }}{{ else }}{{ omit . "rollingUpdate" | toYaml }}{{ end }}
{{- end }}
{{- /* A container's. A privileged one always may get more rights: the API server refuses it with the default. */ -}}
{{- define "terway.securityContext" -}}
{{- if .privileged }}{{ omit . "allowPrivilegeEscalation" | toYaml }}{{ else }}{{ toYaml . }}{{ end }}
{{- end }}
{{- /* .of, a securityContext, with agent.seLinuxOptions. */ -}}
{{- define "terway.withSELinux" -}}
{{- with .root.Values.agent.seLinuxOptions }}{{ merge (dict "seLinuxOptions" .) $.of | toYaml }}{{ else }}{{ toYaml .of }}{{ end }}
{{- end }}
{{- /* The seconds of a time such as 1h30m. */ -}}
{{- define "terway.seconds" -}}
{{- $all := 0 }}
{{- range regexFindAll "[0-9]+[hms]" . -1 }}
{{- $all = add $all (mul (regexFind "[0-9]+" .) (get (dict "h" 3600 "m" 60 "s" 1) (regexFind "[hms]" .))) }}
{{- end }}
{{- $all }}
{{- end }}
