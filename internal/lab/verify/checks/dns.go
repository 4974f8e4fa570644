package checks

import (
	"context"
	"fmt"
	"strings"

	"terway.dev/terway/internal/lab/verify"
)

var dns = verify.Check{
	Name:   "dns",
	About:  "a pod on each node resolves Services by their long and short names and reaches one by name",
	Beside: true,
	Run: run(func(ctx context.Context, e *env) (string, error) {
		svc, backends, err := e.web(ctx, 1)
		if err != nil {
			return "", err
		}
		pods, err := e.PodOn(ctx, e.Lab.Machines...)
		if err != nil {
			return "", err
		}
		var lines []string
		for i, p := range pods {
			out, err := e.Exec(ctx, p.Name, "nslookup", "-type=a", "kubernetes.default.svc.cluster.local")
			if err != nil {
				return "", err
			}
			if !strings.Contains(out, "172.21.0.1\n") && !strings.HasSuffix(out, "172.21.0.1") {
				return "", fmt.Errorf("pod %s: kubernetes.default.svc.cluster.local is not 172.21.0.1:\n%s", p.Name, out)
			}
			var seen string
			if err := e.Poll(ctx, "the Service to answer by name", func() (bool, error) {
				var err error
				seen, err = e.Curl(ctx, p.Name, "http://web/hostname", "-w", " %{remote_ip} %{time_namelookup}")
				return err == nil, nil
			}); err != nil {
				return "", err
			}
			f := strings.Fields(seen)
			if len(f) != 3 || f[0] != backends[0].Name || f[1] != svc.Spec.ClusterIP {
				return "", fmt.Errorf("pod %s: http://web/hostname answered %q, want %s at %s", p.Name, seen, backends[0].Name, svc.Spec.ClusterIP)
			}
			lines = append(lines, fmt.Sprintf("%s: web → %s in %s s", e.Lab.Machines[i].Name, f[1], f[2]))
		}
		return "kubernetes.default.svc.cluster.local → 172.21.0.1; " + strings.Join(lines, ", "), nil
	}),
}
