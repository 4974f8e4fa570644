package chart

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

type rules struct {
	Groups []group `json:"groups"`
}

type group struct {
	Name  string `json:"name"`
	Rules []rule `json:"rules"`
}

type rule struct {
	Alert       string            `json:"alert,omitempty"`
	Record      string            `json:"record,omitempty"`
	Expr        string            `json:"expr"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// monitoring returns the chart's alerts, and the expressions of its dashboard.
func monitoring(t *testing.T) (alerts rules, panels []string) {
	t.Helper()
	read(t, dir+"monitoring/alerts.yaml", func(b []byte, v any) error { return yaml.Unmarshal(b, v) }, &alerts)
	var dashboard struct {
		Panels []struct {
			Targets []struct {
				Expr string `json:"expr"`
			} `json:"targets"`
		} `json:"panels"`
	}
	read(t, dir+"monitoring/dashboard.json", json.Unmarshal, &dashboard)
	for _, p := range dashboard.Panels {
		for _, q := range p.Targets {
			panels = append(panels, q.Expr)
		}
	}
	if len(alerts.Groups) == 0 || len(panels) == 0 {
		t.Fatalf("%d groups of alerts, %d expressions of panels", len(alerts.Groups), len(panels))
	}
	return alerts, panels
}

var (
	documentedMetric = regexp.MustCompile("(?m)^\\| `(terway_[a-z_]+)` \\| ([a-z]+) \\| ([^|]*) \\|")
	metricName       = regexp.MustCompile(`terway_[a-z_]+`)
	labelsOfExpr     = regexp.MustCompile(`by \(([^)]*)\)|\{([a-z]+)[!=]`)
)

// Every metric in alerts and dashboard is one of docs/metrics.md, which is written from the source, and has the labels that
// are used: Prometheus finds nothing wrong with a metric that nobody has.
func TestMonitoringKnowsTheMetrics(t *testing.T) {
	labels := map[string][]string{}
	read(t, "../../docs/metrics.md", func(b []byte, _ any) error {
		for _, m := range documentedMetric.FindAllStringSubmatch(string(b), -1) {
			has := []string{"instance"}
			for l := range strings.SplitSeq(m[3], ",") {
				has = append(has, strings.Trim(l, " `"))
			}
			if m[2] == "histogram" {
				labels[m[1]+"_bucket"], labels[m[1]+"_count"] = append(slices.Clone(has), "le"), has
			} else {
				labels[m[1]] = has
			}
		}
		return nil
	}, nil)
	check := func(expr string) {
		metrics := metricName.FindAllString(expr, -1)
		if len(metrics) == 0 {
			t.Errorf("%s: no metric of Terway's", expr)
		}
		for _, m := range metrics {
			if labels[m] == nil {
				t.Errorf("%s: no program has the metric %s", expr, m)
			}
		}
		for _, u := range labelsOfExpr.FindAllStringSubmatch(expr, -1) {
			for l := range strings.SplitSeq(u[1]+u[2], ",") {
				if !slices.ContainsFunc(metrics, func(m string) bool { return slices.Contains(labels[m], strings.TrimSpace(l)) }) {
					t.Errorf("%s: none of its metrics has the label %s", expr, l)
				}
			}
		}
	}
	alerts, panels := monitoring(t)
	for _, g := range alerts.Groups {
		for _, r := range g.Rules {
			check(r.Expr)
			if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("%s: want a summary and a description that says what to do", r.Alert)
			}
		}
	}
	for _, expr := range panels {
		check(expr)
	}
}

// Prometheus' own program parses alerts and expressions, and fires what should fire.
func TestPromtool(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%v: make deps installs it", err)
		}
		t.Skipf("%v: make deps installs it", err)
	}
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	run("check", "rules", "--lint-fatal", dir+"monitoring/alerts.yaml")
	_, expressions := monitoring(t)
	panels := group{Name: "panels"}
	for i, expr := range expressions {
		panels.Rules = append(panels.Rules, rule{Record: "panel:" + strings.Repeat("x", i+1), Expr: strings.ReplaceAll(expr, "$__rate_interval", "5m")})
	}
	b, err := yaml.Marshal(rules{Groups: []group{panels}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "panels.yaml")
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
	run("check", "rules", "--lint-fatal", file)
	run("test", "rules", "testdata/alerts.yaml")
}

// The Prometheus Operator finds both programs by their Services, and alerts and dashboard are the files of the chart.
func TestMonitoringObjects(t *testing.T) {
	all := objects(t, ciValues(t)["monitoring-values.yaml"])
	for app, workload := range map[string]string{"terwayd": "DaemonSet terwayd", "terway-controller": "Deployment terway-controller"} {
		var monitor struct {
			Spec struct {
				Selector struct {
					MatchLabels map[string]string `json:"matchLabels"`
				} `json:"selector"`
				Endpoints []struct {
					Port            string `json:"port"`
					Scheme          string `json:"scheme"`
					BearerTokenFile string `json:"bearerTokenFile"`
				} `json:"endpoints"`
			} `json:"spec"`
		}
		into(t, all["ServiceMonitor "+app], &monitor)
		var service corev1.Service
		into(t, all["Service "+app+"-metrics"], &service)
		for k, v := range monitor.Spec.Selector.MatchLabels {
			if service.Labels[k] != v {
				t.Errorf("%s: ServiceMonitor selects %v, the Service has %v", app, monitor.Spec.Selector.MatchLabels, service.Labels)
			}
		}
		pod := podOf(t, all[workload])
		for k, v := range service.Spec.Selector {
			if pod.Labels[k] != v {
				t.Errorf("%s: the Service selects %v, pods have %v", app, service.Spec.Selector, pod.Labels)
			}
		}
		e, p := monitor.Spec.Endpoints, service.Spec.Ports
		if len(e) != 1 || len(p) != 1 || e[0].Port != p[0].Name || e[0].Scheme != "https" || e[0].BearerTokenFile == "" {
			t.Fatalf("%s: endpoints %+v, ports %+v", app, e, p)
		}
		if !slices.ContainsFunc(pod.Spec.Containers[0].Ports, func(c corev1.ContainerPort) bool {
			return c.Name == p[0].TargetPort.StrVal && c.ContainerPort == p[0].Port
		}) {
			t.Errorf("%s: the Service's port %+v is none of %+v", app, p[0], pod.Spec.Containers[0].Ports)
		}
	}
	want, _ := monitoring(t)
	var alerts struct {
		Spec rules `json:"spec"`
	}
	into(t, all["PrometheusRule terway"], &alerts)
	if len(alerts.Spec.Groups) != len(want.Groups) {
		t.Errorf("the PrometheusRule has %d groups, want %d", len(alerts.Spec.Groups), len(want.Groups))
	}
	var dashboard corev1.ConfigMap
	into(t, all["ConfigMap terway-dashboard"], &dashboard)
	if !json.Valid([]byte(dashboard.Data["terway.json"])) || dashboard.Labels["grafana_dashboard"] != "1" {
		t.Errorf("the dashboard: %+v", dashboard)
	}
	_, problem := helm.render(t, with("terway", map[string]any{"metrics.enabled": false, "metrics.serviceMonitor.enabled": true}))
	if !strings.Contains(problem, "metrics.serviceMonitor.enabled") {
		t.Errorf("a ServiceMonitor of what cannot be scraped: %q", problem)
	}
}
