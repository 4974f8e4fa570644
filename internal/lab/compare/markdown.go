package compare

import (
	"fmt"
	"io"
	"strings"
)

// line is a row of the table: a name, and its value for a network.
type line struct {
	title string
	cell  func(*Network) string
}

// section is a row of the user guide's table.
type section struct {
	title string
	lines []line
}

func sections() []section {
	speed := func(path string, of func(*Path) Spread) func(*Network) string {
		return func(n *Network) string {
			for i := range n.Paths {
				if n.Paths[i].Name == path {
					return of(&n.Paths[i]).String()
				}
			}
			return notMeasured
		}
	}
	path := func(what, name string) []line {
		return []line{
			{what + ": TCP stream", speed(name, func(p *Path) Spread { return p.Stream })},
			{what + ": request and answer", speed(name, func(p *Path) Spread { return p.P50 })},
			{what + ": opening a connection", speed(name, func(p *Path) Spread { return p.Connect })},
		}
	}
	return []section{
		{"Performance", append(append(path("pod to pod on another node", PathPodToPod),
			path("pod to an instance of the VPC", PathPodToInstance)...),
			line{"the address that this instance sees", seen})},
		{"Security", []line{
			{"a NetworkPolicy that denies every connection", policy},
			{"bandwidth of a pod that asked to send at most 10 Mbit/s", limit("egress")},
			{"bandwidth of a pod that asked to receive at most 10 Mbit/s", limit("ingress")},
		}},
		{"Addresses", []line{
			{"held by the nodes, used by pods", addresses},
			{"of the VPC's private addresses", share(func(a Addresses) int { return a.OnENIs }, QuotaPrivateAddresses)},
			{"route entries", share(func(a Addresses) int { return a.Routes }, QuotaRouteEntries)},
		}},
		{"Load balancer", []line{
			{"to the pod directly or through a NodePort", loadBalancer},
			{"requests that fail in rolling upgrades of all pods", lostRequests},
		}},
	}
}

const notMeasured = "not yet measured"

func seen(n *Network) string {
	switch n.Seen.As {
	case "":
		return notMeasured
	case n.Seen.Pod:
		return "the pod's own"
	case n.Seen.Node:
		return "the node's (NAT)"
	}
	return "another: " + n.Seen.As
}

func policy(n *Network) string {
	p := n.Policy
	switch {
	case p.Tried == 0:
		return notMeasured
	case p.Enforced:
		return fmt.Sprintf("enforced: no connection passes after %.1f s", p.Seconds)
	}
	return fmt.Sprintf("not enforced: %d of %d connections passed in %.0f s", p.Passed, p.Tried, p.Seconds)
}

func limit(direction string) func(*Network) string {
	return func(n *Network) string {
		for _, l := range n.Limits {
			switch {
			case l.Direction != direction:
			case l.Kept():
				return fmt.Sprintf("limited: %.1f Mbit/s", l.Got/1e6)
			default:
				return fmt.Sprintf("not limited: %.0f Mbit/s", l.Got/1e6)
			}
		}
		return notMeasured
	}
}

func addresses(n *Network) string {
	a := n.Addresses
	if a.Reserved() == 0 {
		return notMeasured
	}
	s := fmt.Sprintf("%d held, %d used (%.0f %%)", a.Reserved(), a.Pods, 100*float64(a.Pods)/float64(a.Reserved()))
	if len(a.Blocks) > 0 {
		s += fmt.Sprintf("; %d blocks", len(a.Blocks))
	}
	return s
}

// share formats how much of a quota is used.
func share(used func(Addresses) int, quota int) func(*Network) string {
	return func(n *Network) string {
		if n.Addresses.Reserved() == 0 {
			return notMeasured
		}
		return fmt.Sprintf("%d of %d", used(n.Addresses), quota)
	}
}

func loadBalancer(n *Network) string {
	switch {
	case n.LoadBalancer == nil:
		return notMeasured
	case n.LoadBalancer.Direct:
		return "directly"
	}
	return "through a NodePort"
}

func lostRequests(n *Network) string {
	if n.LoadBalancer == nil || n.LoadBalancer.Sent == 0 {
		return notMeasured
	}
	return fmt.Sprintf("%d of %d", n.LoadBalancer.Failed, n.LoadBalancer.Sent)
}

// Table returns the comparison as an aligned Markdown table.
func (r *Report) Table() string {
	rows := [][]string{{""}}
	for i := range r.Networks {
		rows[0] = append(rows[0], title(&r.Networks[i]))
	}
	for _, s := range sections() {
		rows = append(rows, append([]string{"**" + s.title + "**"}, make([]string, len(r.Networks))...))
		for _, l := range s.lines {
			row := []string{l.title}
			for i := range r.Networks {
				row = append(row, l.cell(&r.Networks[i]))
			}
			rows = append(rows, row)
		}
	}
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	var b strings.Builder
	for n, row := range rows {
		for i, cell := range row {
			fmt.Fprintf(&b, "| %s%s ", cell, strings.Repeat(" ", widths[i]-len([]rune(cell))))
		}
		b.WriteString("|\n")
		if n == 0 {
			for _, w := range widths {
				fmt.Fprintf(&b, "|%s", strings.Repeat("-", w+2))
			}
			b.WriteString("|\n")
		}
	}
	return b.String()
}

func title(n *Network) string {
	name := strings.ToUpper(n.Name[:1]) + n.Name[1:]
	if n.Datapath != "" {
		name += " (" + n.Datapath
		if n.Default {
			name += ", the default"
		}
		name += ")"
	}
	return name
}

// WriteMarkdown writes the complete document.
func (r *Report) WriteMarkdown(w io.Writer) error {
	_, err := fmt.Fprintf(w, `# Terway and Flannel, measured

Written by `+"`make compare`"+` on %s, Linux %s, %d CPUs: one lab with %d nodes (%s) for
each column, the same simulated VPC, the same pods. Do not edit: run it again.

%s
How it was measured:

- Speeds are ratios to what the nodes reach over the same fabric, so the machine's
  own speed is not in them: stream below 1 and times above 1 are what the pod network
  costs. Times are the median of all in a round.
- %d rounds. In each pods and nodes take turns of a few dozen milliseconds, there and
  back, and their ratio is made within the round. A cell has the median of the rounds,
  and in brackets the range in which the middle half of them lies. The machine is shared
  and small: where the ranges of two cells overlap, do not take one for better, and a
  wide range says that something else ran meanwhile.
- The slowest requests are not told: they waited for a CPU, not for a network.
- A request and its answer have 64 bytes each, on one connection.
- The instance of the VPC is the one that runs the control plane; no pod network
  reaches into it.
- The NetworkPolicy selects every pod and allows no ingress. "Not enforced" means that
  connections to a pod were still opened until the end. With Terway policies are turned
  on (policy.enabled) for this row and for the load balancer's, which are measured last: they are off by default.
- The bandwidth limits are asked for with the annotations
  kubernetes.io/egress-bandwidth and kubernetes.io/ingress-bandwidth.
- Behind the load balancer (CLB) are %d pods whose program exits at SIGTERM, with readiness
  gates and the injected sleep, of which Flannel's get none. They are upgraded %d times (maxSurge %d,
  maxUnavailable 0); the requests are %d a second, each over a connection of its own.
- Held addresses: those on the nodes' secondary ENIs as the cloud lists them, and the
  blocks of nodes (spec.podCIDRs), when %d pods and the cluster's DNS run; with
  exclusive as many pods on each node as leave every node an ENI. Route entries: those
  in the VPC's route tables that are not the system's. Quotas are an account's defaults.
`, r.Date, r.Kernel, r.CPUs, r.Nodes, r.InstanceType, r.Table(), r.Rounds, upgradedPods, r.Upgrades, upgradedAtOnce, upgradeRate, r.Pods)
	return err
}
