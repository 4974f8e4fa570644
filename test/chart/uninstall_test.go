package chart

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	rbacv1 "k8s.io/api/rbac/v1"
)

// uninstallObjects are the objects that exist only while the chart is uninstalled.
var uninstallObjects = []string{"ClusterRole terway-uninstall", "ClusterRoleBinding terway-uninstall",
	"Role terway-uninstall", "RoleBinding terway-uninstall", "Job terway-uninstall"}

// An object that is no hook would be installed, and the job would take Terway off the cluster at once.
func TestUninstallIsAHook(t *testing.T) {
	got := objects(t, with("terway", nil))
	for _, name := range uninstallObjects {
		o := got[name]
		if o == nil {
			t.Fatalf("there is no %s", name)
		}
		a := o.GetAnnotations()
		weight := "-1" // what the job needs exists before it
		if o.GetKind() == "Job" {
			weight = "0"
		}
		if a["helm.sh/hook"] != "pre-delete" || a["helm.sh/hook-weight"] != weight || a["helm.sh/hook-delete-policy"] != "before-hook-creation,hook-succeeded" {
			t.Errorf("%s: annotations %v", name, a)
		}
	}
	if a := got["Job terway-uninstall"].GetAnnotations(); a["helm.sh/hook-output-log-policy"] != "hook-succeeded,hook-failed" {
		t.Errorf("Helm does not print what the job said, which is deleted after a success: %v", a)
	}
	for name, o := range got {
		if _, hook := o.GetAnnotations()["helm.sh/hook"]; hook != slices.Contains(uninstallObjects, name) {
			t.Errorf("%s: a hook: %v", name, hook)
		}
	}
	// helm template | kubectl apply.
	files, problem := helm.ask(t, map[string]any{"values": with("terway", nil), "offline": true})
	if problem != "" {
		t.Fatal(problem)
	}
	for name, o := range parsed(t, files) {
		if _, hook := o.GetAnnotations()["helm.sh/hook"]; hook || strings.Contains(name, "uninstall") {
			t.Errorf("helm template prints %s", name)
		}
	}
	for name, o := range objects(t, with("flannel", nil)) {
		if _, hook := o.GetAnnotations()["helm.sh/hook"]; hook != slices.Contains(uninstallObjects, name) {
			t.Errorf("with flannel %s is a hook: %v", name, hook)
		}
	}
}

// With Flannel it asks all pods and stops flanneld.
func TestUninstallOfFlannel(t *testing.T) {
	for network, agents := range map[string]string{"terway": "terwayd", "flannel": "kube-flannel"} {
		got := objects(t, with(network, nil))
		var cluster rbacv1.ClusterRole
		into(t, got["ClusterRole terway-uninstall"], &cluster)
		var own rbacv1.Role
		into(t, got["Role terway-uninstall"], &own)
		if got["DaemonSet "+agents] == nil || !may(own.Rules, "apps", "daemonsets", agents, "patch") {
			t.Errorf("%s: it may not stop DaemonSet %s: %v", network, agents, own.Rules)
		}
		if flannel := network == "flannel"; may(cluster.Rules, "", "pods", "", "list") != flannel || !may(own.Rules, "batch", "jobs", "", "create") {
			t.Errorf("%s: rules %v, %v", network, cluster.Rules, own.Rules)
		}
	}
}

// It reaches the cloud as the controller does, whatever the credential is.
func TestUninstallHasTheControllersCredential(t *testing.T) {
	rrsa := map[string]any{"credentials.source": "rrsa", "credentials.roleARN": "acs:ram::1:role/r", "credentials.oidcProviderARN": "acs:ram::1:oidc-provider/p",
		"controller.stsEndpoint": "sts.example"}
	for name, values := range map[string]map[string]any{
		"secret": {"credentials.existingSecret": "mine", "controller.ecsEndpoint": "ecs.example", "controller.cloudLimits": map[string]any{"DeleteNetworkInterface": 9}},
		"role":   {"credentials.source": "ecs-role", "credentials.role": "r"},
		"rrsa":   rrsa,
	} {
		got := objects(t, with("terway", values))
		controller := podOf(t, got["Deployment terway-controller"]).Spec
		var job batchv1.Job
		into(t, got["Job terway-uninstall"], &job)
		pod := job.Spec.Template.Spec
		own := []string{"--timeout=30m", "--job=terway-uninstall", "--kinds"}
		for _, a := range pod.Containers[0].Args {
			if !slices.Contains(controller.Containers[0].Args, a) && !slices.Contains(own, a) {
				t.Errorf("%s: the controller has no %s", name, a)
			}
		}
		for _, a := range controller.Containers[0].Args {
			cloud := strings.Contains(a, "endpoint") || strings.Contains(a, "role") || strings.Contains(a, "credentials") || strings.Contains(a, "oidc") || strings.Contains(a, "limits")
			if cloud && !slices.Contains(pod.Containers[0].Args, a) {
				t.Errorf("%s: the job has no %s", name, a)
			}
		}
		if !reflect.DeepEqual(pod.Volumes, controller.Volumes) || !reflect.DeepEqual(pod.Containers[0].VolumeMounts, controller.Containers[0].VolumeMounts) {
			t.Errorf("%s: the job's volumes are %v at %v", name, pod.Volumes, pod.Containers[0].VolumeMounts)
		}
		if pod.ServiceAccountName != controller.ServiceAccountName {
			t.Errorf("%s: its account is %s; a RAM role trusts %s", name, pod.ServiceAccountName, controller.ServiceAccountName)
		}
	}
}

// It runs where the controller may, because only there may be the RAM role and the way to the cloud, is let in by what looks at the controller's
// labels and annotations, and is given up if it does not start in its time and five minutes.
func TestUninstallRunsWhereTheControllerMay(t *testing.T) {
	pool := map[string]any{"matchExpressions": []any{map[string]any{"key": "pool", "operator": "In", "values": []any{"system"}}}}
	got := objects(t, with("terway", map[string]any{
		"controller.nodeSelector": map[string]any{"role": "net"}, "controller.podLabels": map[string]any{"team": "net"}, "controller.podAnnotations": map[string]any{"sidecar": "none"},
		"controller.affinity": map[string]any{
			"nodeAffinity":    map[string]any{"requiredDuringSchedulingIgnoredDuringExecution": map[string]any{"nodeSelectorTerms": []any{pool}}},
			"podAntiAffinity": map[string]any{"requiredDuringSchedulingIgnoredDuringExecution": []any{map[string]any{"topologyKey": "kubernetes.io/hostname", "labelSelector": map[string]any{"matchLabels": map[string]any{"app": "terway-controller"}}}}},
		},
		"uninstall.timeout": "1h30m5s",
	}))
	controller := podOf(t, got["Deployment terway-controller"])
	var job batchv1.Job
	into(t, got["Job terway-uninstall"], &job)
	pod := job.Spec.Template
	if !reflect.DeepEqual(pod.Spec.Affinity.NodeAffinity, controller.Spec.Affinity.NodeAffinity) || !reflect.DeepEqual(pod.Spec.NodeSelector, controller.Spec.NodeSelector) {
		t.Errorf("it runs on %v, %v; the controller on %v, %v", pod.Spec.NodeSelector, pod.Spec.Affinity.NodeAffinity, controller.Spec.NodeSelector, controller.Spec.Affinity.NodeAffinity)
	}
	if pod.Spec.Affinity.PodAntiAffinity != nil {
		t.Error("it may not run beside the controller, which runs until the nodes are clean")
	}
	for _, taint := range controller.Spec.Tolerations {
		if !slices.Contains(pod.Spec.Tolerations, taint) {
			t.Errorf("it does not tolerate %v", taint)
		}
	}
	if pod.Labels["team"] != "net" || pod.Labels["app"] != "terway-uninstall" || pod.Annotations["sidecar"] != "none" {
		t.Errorf("labels %v, annotations %v", pod.Labels, pod.Annotations)
	}
	if d := job.Spec.ActiveDeadlineSeconds; d == nil || *d != 5405+300 {
		t.Errorf("its deadline is %v, want its 5405 s and 300 to end", d)
	}
	if !slices.Contains(pod.Spec.Containers[0].Args, "--job="+job.Name) {
		t.Errorf("a pod that starts late takes its full time, and is killed: arguments %q", pod.Spec.Containers[0].Args)
	}
	var own rbacv1.Role
	into(t, got["Role terway-uninstall"], &own)
	if !may(own.Rules, "batch", "jobs", job.Name, "get") {
		t.Errorf("it may not read when it has started: %v", own.Rules)
	}
}

// Without a credential it starts too, because it mounts none.
func TestUninstallWithoutACredential(t *testing.T) {
	for name, values := range map[string]map[string]any{
		"secret": nil,
		"role":   {"credentials.source": "ecs-role", "credentials.role": "r"},
		"rrsa":   {"credentials.source": "rrsa", "credentials.roleARN": "acs:ram::1:role/r", "credentials.oidcProviderARN": "acs:ram::1:oidc-provider/p"},
	} {
		paths := map[string]any{"uninstall.withoutCloud": true, "controller.extraVolumes": []any{map[string]any{"name": "v", "emptyDir": map[string]any{}}},
			"controller.extraVolumeMounts": []any{map[string]any{"name": "v", "mountPath": "/v"}}}
		maps.Copy(paths, values)
		got := objects(t, with("terway", paths))
		var job batchv1.Job
		into(t, got["Job terway-uninstall"], &job)
		pod := job.Spec.Template.Spec
		if want := []string{"--without-cloud", "--timeout=30m", "--job=terway-uninstall", "--kinds"}; !slices.Equal(pod.Containers[0].Args, want) {
			t.Errorf("%s: arguments %q, want %q", name, pod.Containers[0].Args, want)
		}
		if len(pod.Volumes) != 1 || pod.Volumes[0].Name != "v" || len(pod.Containers[0].VolumeMounts) != 1 {
			t.Errorf("%s: volumes %v at %v, want only those of the values", name, pod.Volumes, pod.Containers[0].VolumeMounts)
		}
		controller := podOf(t, got["Deployment terway-controller"]).Spec
		if (len(controller.Volumes) == 2) != (name != "role") {
			t.Errorf("%s: the controller's volumes are %v", name, controller.Volumes)
		}
	}
}

// It may change Services only if it is forced to.
func TestUninstallForced(t *testing.T) {
	for _, force := range []bool{false, true} {
		got := objects(t, with("terway", map[string]any{"uninstall.force": force}))
		var job batchv1.Job
		into(t, got["Job terway-uninstall"], &job)
		if slices.Contains(job.Spec.Template.Spec.Containers[0].Args, "--force") != force {
			t.Errorf("uninstall.force: %v: arguments %q", force, job.Spec.Template.Spec.Containers[0].Args)
		}
		var role rbacv1.ClusterRole
		into(t, got["ClusterRole terway-uninstall"], &role)
		if may(role.Rules, "", "services", "", "patch") != force {
			t.Errorf("uninstall.force: %v: rules %v", force, role.Rules)
		}
	}
	got := objects(t, with("terway", map[string]any{"kinds.install": false}))
	var role rbacv1.ClusterRole
	into(t, got["ClusterRole terway-uninstall"], &role)
	if may(role.Rules, "apiextensions.k8s.io", "customresourcedefinitions", "nodenetworks.network.terway.dev", "delete") {
		t.Error("it may delete a kind that the chart has not installed")
	}
}
