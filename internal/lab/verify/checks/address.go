package checks

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/verify"
)

var addressFromVSwitch = verify.Check{
	Name:   "address-from-vswitch",
	About:  "a pod's address is of the pod vSwitch, the cloud has it on an interface of the pod's node, and the pod has no other",
	NotFor: map[string]string{lab.NetworkFlannel: "pods have addresses of the pod CIDR: see address-from-block"},
	Beside: true,
	Run: run(func(ctx context.Context, e *env) (string, error) {
		pods, err := e.PodOn(ctx, e.Lab.Machines...)
		if err != nil {
			return "", err
		}
		ranges, err := e.Lab.Cloud.PodRanges(ctx)
		if err != nil {
			return "", err
		}
		var lines []string
		for i, p := range pods {
			m := e.Lab.Machines[i]
			addr, err := netip.ParseAddr(p.Status.PodIP)
			if err != nil {
				return "", fmt.Errorf("pod %s: %w", p.Name, err)
			}
			if !inAny(addr, ranges) {
				return "", fmt.Errorf("pod %s on %s has %s, which is in none of the pod vSwitches %v", p.Name, m.Name, addr, ranges)
			}
			by, err := e.Carrier(ctx, m, p)
			if err != nil {
				return "", fmt.Errorf("pod %s: %w", p.Name, err)
			}
			eni, where := by.ENI, by.Dev.Name
			if e.Exclusive(m.Name) {
				// The device is in the pod: Carrier would otherwise not have found it there.
				if where = "eth0 of the pod"; by.Dev.Name != "eth0" || len(eni.Addresses) != 1 {
					return "", fmt.Errorf("pod %s: its interface %s with %v is %s there, want eth0 and one address", p.Name, eni.ID, eni.Addresses, by.Dev.Name)
				}
			}
			if eni.Type == "Primary" {
				return "", fmt.Errorf("pod %s has %s, an address of the primary interface %s of %s", p.Name, addr, eni.ID, m.Name)
			}
			inside, err := e.Exec(ctx, p.Name, "ip", "-4", "-o", "addr", "show", "dev", "eth0")
			if err != nil {
				return "", err
			}
			if want := " " + addr.String() + "/32 "; !strings.Contains(inside, want) || strings.Count(inside, " inet ") != 1 {
				return "", fmt.Errorf("pod %s: eth0 has %q, want only%s", p.Name, inside, want)
			}
			lines = append(lines, fmt.Sprintf("%s on %s of %s (%s)", addr, eni.ID, m.Name, where))
		}
		return strings.Join(lines, "; "), nil
	}),
}

func inAny(a netip.Addr, in []netip.Prefix) bool {
	for _, p := range in {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
