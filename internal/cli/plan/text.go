package plan

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/plan"
)

// text prints the plan for people.
func text(w io.Writer, p *plan.Plan, c plan.Capacity) error {
	now, most := p.Nodes.Count, p.Nodes.Max
	fmt.Fprintf(w, "%s: %s in %s, for %s", p.Name, kind(p), p.Region, count(now, "node"))
	if most > now {
		fmt.Fprintf(w, ", later %d", most)
	}
	fmt.Fprint(w, "\n\n")
	if err := drawMap(w, p); err != nil {
		return err
	}

	fmt.Fprintln(w, "\nAddresses taken when every node is full of pods:")
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	row := func(name, zone string, usable any, now, later string) {
		fmt.Fprintf(tw, "%s\t%s\t%v\t%s", name, zone, usable, now)
		if most > p.Nodes.Count {
			fmt.Fprintf(tw, "\t%s", later)
		}
		fmt.Fprintln(tw)
	}
	row("VSWITCH", "ZONE", "USABLE", strings.ToUpper(count(now, "node")), strings.ToUpper(count(most, "node")))
	for _, u := range c.VSwitches {
		row(u.Name, u.Zone, u.Usable, full(u.Now, u.Usable), full(u.Max, u.Usable))
	}
	if err := tw.Flush(); err != nil {
		return err
	}

	fmt.Fprintln(w, "\nPods on a node:")
	tw = tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "TYPE\tSHARED ENIS\tWITH PREFIXES\tEXCLUSIVE ENIS\tTHIS PLAN")
	for _, t := range c.Types {
		fmt.Fprintf(tw, "%s\t%v\t%v\t%v\t%v\n", t.Name, t.Shared, t.Prefixes, t.Exclusive, t.Here)
	}
	if err := tw.Flush(); err != nil {
		return err
	}

	fmt.Fprintln(w, "\nHow far the cluster can grow:")
	tw = tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "LIMIT\tHOLDS\tNODES")
	for _, l := range c.Limits {
		fmt.Fprintf(tw, "%s\t%d %s\t%v\n", l.Name, l.Holds, l.What, l.Nodes)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if c.LargestNodes.Known {
		fmt.Fprintf(w, "Largest cluster: %s, %v pods. First limit reached: %s.\n", count(c.LargestNodes.N, "node"), c.LargestPods, c.LimitedBy)
	} else {
		fmt.Fprintln(w, "Largest cluster: unknown, because numbers of an instance type are unknown.")
	}
	for i, n := range c.Notes {
		if i == 0 {
			fmt.Fprintln(w, "\nNotes:")
		}
		fmt.Fprintln(w, "- "+n)
	}
	return nil
}

func kind(p *plan.Plan) string {
	switch {
	case p.Network == claims.NetworkFlannel:
		return "Flannel"
	case p.Mode == claims.ModeExclusive:
		return "Terway, exclusive ENIs"
	case p.Prefixes:
		return "Terway, shared ENIs with prefixes"
	}
	return "Terway, shared ENIs"
}

// full formats a number of addresses with the share of the vSwitch that it is.
func full(n catalog.Count, usable int) string {
	if !n.Known {
		return n.String()
	}
	percent := 100 * float64(n.N) / float64(usable)
	switch {
	case n.N > 0 && percent < 1:
		return fmt.Sprintf("%d (<1%%)", n.N)
	default:
		return fmt.Sprintf("%d (%.0f%%)", n.N, percent)
	}
}
