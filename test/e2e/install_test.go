//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/lab"
)

// installs upgrades the release in a namespace with its values: nothing changes, and no pod is restarted. Then it tries with things that are wrong,
// each of which fails its check and changes nothing. The nodes' kubelets have the maxPods of Flannel.
func installs(t *testing.T, c *programs, namespace, file string) {
	s, err := lab.LoadState(lab.DefaultDir)
	if err != nil {
		t.Fatal(err)
	}
	client, err := s.Options.Client()
	if err != nil {
		t.Fatal(err)
	}
	// restarts are those of the namespace's pods, by name.
	restarts := func() map[string]string {
		t.Helper()
		list, err := client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]string{}
		for _, p := range list.Items {
			for _, c := range p.Status.ContainerStatuses {
				all[p.Name+" "+c.Name] = fmt.Sprint(p.UID, " ", c.RestartCount)
			}
		}
		return all
	}
	revisions := func() string {
		t.Helper()
		out, err := labCommand(s, s.Options.Bin("helm"), "history", "terway", "--namespace", namespace, "-o", "json").Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	const ignore = "--ignore=max-pods"
	before, was := restarts(), revisions()
	if out, err := install(c, s, "--terway-namespace", namespace, "--values", file, "--dry-run", ignore); err != nil || !strings.Contains(out, "would make 0 objects, changes 0, deletes 0, ") || revisions() != was {
		t.Errorf("a dry run: %v\n%s", err, out)
	}
	out, err := install(c, s, "--terway-namespace", namespace, "--values", file, ignore)
	if err != nil || !strings.Contains(out, "makes 0 objects, changes 0, deletes 0, ") || revisions() == was {
		t.Errorf("an upgrade without a change: %v\n%s\nhistory %s", err, out, revisions())
	}
	if after := restarts(); !maps.Equal(before, after) {
		t.Errorf("an upgrade without a change has restarted pods: from\n%v\nto\n%v", before, after)
	}

	// A call that the cloud refuses for the resource that does not exist: the controller's own calls go on.
	fault := c.lab("vpcsim", "faults", "add", "--endpoint", s.Cloud.Endpoint, "-")
	fault.Stdin = strings.NewReader(`{"name": "ram", "action": "AttachNetworkInterface", "match": {"NetworkInterfaceId": "eni-terwayctl-install-check"}, "error": {"code": "Forbidden.RAM", "status": 403}}`)
	if out, err := fault.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Cleanup(func() {
		if out, err := c.lab("vpcsim", "faults", "remove", "--endpoint", s.Cloud.Endpoint, "ram").CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
	was = revisions()
	for name, wrong := range map[string]struct {
		change func(values map[string]any)
		check  string
		want   []string
	}{
		"maxPods": {func(map[string]any) {}, "max-pods", []string{"kubelet's maxPods is ", "terwayctl instance-types --max-pods "}},
		"values":  {func(v map[string]any) { v["colour"] = 1 }, "values", []string{"additional properties 'colour' not allowed"}},
		"chart":   {func(v map[string]any) { v["metrics"] = map[string]any{"agentPort": 10363} }, "chart", []string{"metrics.agentPort: 10363 is the port of the controller's metrics"}},
		"Secret":  {func(v map[string]any) { v["credentials"] = map[string]any{"existingSecret": "none"} }, "credential", []string{"there is no Secret none in namespace " + namespace}},
		"key": {func(v map[string]any) {
			v["credentials"] = map[string]any{"accessKeyID": "LTAIwrong", "accessKeySecret": "wrong"}
		}, "credential", []string{"the cloud does not accept the controller's credential"}},
		"permissions":     {func(map[string]any) {}, "permissions", []string{"the controller's credential may not call ecs:AttachNetworkInterface", "deploy/ram-policy.json"}},
		"vSwitch":         {func(v map[string]any) { conf(v)["vswitches"] = map[string]any{"cn-hangzhou-i": []string{"vsw-none"}} }, "vswitches", []string{"the nodes' VPC has no vSwitch vsw-none"}},
		"security groups": {func(v map[string]any) { conf(v)["security_groups"] = []string{"sg-none"} }, "security-groups", []string{"the nodes' VPC has no security group sg-none"}},
	} {
		ignore := ignore
		if wrong.check == "max-pods" {
			ignore = "--ignore=permissions"
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var values map[string]any
		if err := yaml.Unmarshal(data, &values); err != nil {
			t.Fatal(err)
		}
		wrong.change(values)
		if data, err = yaml.Marshal(values); err != nil {
			t.Fatal(err)
		}
		bad := filepath.Join(t.TempDir(), "values.yaml")
		if err := os.WriteFile(bad, data, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := install(c, s, "--terway-namespace", namespace, "--values", bad, "-o", "json", ignore)
		var r struct {
			Checks []struct {
				Name     string
				Problems []string
			}
			Done bool
		}
		if exitStatus(err) != 1 || json.Unmarshal([]byte(out), &r) != nil || r.Done {
			t.Errorf("%s: %v, want exit status 1 and the checks\n%s", name, err, out)
			continue
		}
		problems := ""
		for _, c := range r.Checks {
			if c.Name == wrong.check {
				problems = strings.Join(c.Problems, "\n")
			}
		}
		for _, want := range wrong.want {
			if !strings.Contains(problems, want) {
				t.Errorf("%s: check %s says %q, want %q in it\n%s", name, wrong.check, problems, want, out)
			}
		}
	}
	if revisions() != was {
		t.Errorf("checks that fail have changed the release:\n%s\nto\n%s", was, revisions())
	}
}

func conf(values map[string]any) map[string]any {
	c, _ := values["eniConfig"].(map[string]any)
	return c
}

// install runs "terwayctl install" on the lab and returns its standard output.
func install(c *programs, s *lab.State, args ...string) (string, error) {
	cmd := labCommand(s, c.path("terwayctl"), append([]string{"install"}, args...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, &said)
	}
	return string(out), err
}

// labCommand is a command in the environment of "terway-lab env".
func labCommand(s *lab.State, program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Env = os.Environ()
	for _, e := range s.Env() {
		cmd.Env = append(cmd.Env, e[0]+"="+e[1])
	}
	return cmd
}
