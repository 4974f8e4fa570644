package policy

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/naive"
	"terway.dev/terway/internal/policy/translate"
)

func traceCommand() *cobra.Command {
	var from source
	var source, destination, port string
	cmd := &cobra.Command{
		Use:   "trace --offline DIR --from POD --to POD --port tcp/80",
		Short: "Show the verdict of policies on a connection, and the rule that decides",
		Long: `Evaluates the policies at the end that opens a connection (egress) and at the other end
(ingress), and prints both verdicts with the deciding rules. A pod is given as NAMESPACE/NAME,
other ends as an address. Pods in the host network have their node's address, and no policy.

The address and port are those of the pod behind a Service, not the Service's.
A connection that is denied is an error.`,
		Example: `  terwayctl policy trace --offline policies --from shop/web --to shop/db --port tcp/5432
  terwayctl policy trace --offline policies --from 198.51.100.7 --to shop/web --port 443
  terwayctl policy trace --offline policies --from shop/web --to 10.0.0.9 --port icmp/8`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := from.read(cmd)
			if err != nil {
				return err
			}
			cluster, notes := translate.Cluster(o)
			set, more := translate.Policies(o, from.options)
			for _, n := range append(more, notes...) {
				fmt.Fprintln(cmd.ErrOrStderr(), n)
			}
			c, err := connection(port)
			a, aerr := endOf(cluster, "--from", source)
			b, berr := endOf(cluster, "--to", destination)
			if err := errors.Join(err, aerr, berr); err != nil {
				return err
			}
			return trace(cmd.OutOrStdout(), set, cluster, c, a, b)
		},
	}
	from.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&source, "from", "", "the `END` that opens the connection: NAMESPACE/NAME of a pod, or an address")
	f.StringVar(&destination, "to", "", "the `END` that it goes to")
	f.StringVar(&port, "port", "", "`PROTOCOL/PORT`: tcp/80, udp/53, sctp/9; icmp/TYPE; 80 is tcp/80; a number of a protocol is 47/0")
	for _, name := range []string{"from", "to", "port"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err)
		}
	}
	return cmd
}

// end is one end of a connection; pod is nil if no policy applies there.
type end struct {
	name      string
	pod       *policy.Pod
	addresses []netip.Addr
}

func endOf(cluster policy.Cluster, flag, text string) (end, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		a = a.Unmap()
		for _, p := range cluster.Pods {
			for _, own := range p.Addresses {
				if own == a && !p.HostNetwork && !p.Ended {
					return end{p.String(), p, []netip.Addr{a}}, nil
				}
			}
		}
		return end{text, nil, []netip.Addr{a}}, nil
	}
	namespace, name, ok := strings.Cut(text, "/")
	if !ok {
		return end{}, fmt.Errorf("%s %q: want NAMESPACE/NAME of a pod, or an address", flag, text)
	}
	p := cluster.Pods[policy.NamespacedName{Namespace: namespace, Name: name}]
	switch {
	case p == nil:
		return end{}, fmt.Errorf("%s %s: there is no such pod in the folder", flag, text)
	case p.Ended:
		return end{}, fmt.Errorf("%s %s: the pod has ended", flag, text)
	case len(p.Addresses) == 0:
		return end{}, fmt.Errorf("%s %s: the pod has no address (status.podIPs)", flag, text)
	case p.HostNetwork:
		return end{text + " (host network)", nil, p.Addresses}, nil
	}
	return end{text, p, p.Addresses}, nil
}

// connection parses --port.
func connection(text string) (policy.Connection, error) {
	c := policy.Connection{SourcePort: 49152} // a client port, which no rule uses
	name, number, ok := strings.Cut(text, "/")
	if !ok {
		name, number = "tcp", text
	}
	wrong := fmt.Errorf("--port %q: want for example tcp/80, udp/53, icmp/8 or 47/0", text)
	switch strings.ToLower(name) {
	case "tcp":
		c.Protocol = policy.TCPProtocol
	case "udp":
		c.Protocol = policy.UDPProtocol
	case "sctp":
		c.Protocol = policy.SCTPProtocol
	case "icmp":
		c.Protocol = policy.ICMPProtocol
	case "icmpv6":
		c.Protocol = policy.ICMPv6Protocol
	default:
		n, err := strconv.ParseUint(name, 10, 8)
		if err != nil {
			return c, wrong
		}
		c.Protocol = uint8(n)
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		return c, wrong
	}
	if c.Protocol == policy.ICMPProtocol || c.Protocol == policy.ICMPv6Protocol {
		if n > 255 {
			return c, wrong
		}
		c.ICMPType, c.SourcePort = uint8(n), 0
	} else {
		c.DestinationPort = uint16(n)
	}
	return c, nil
}

func trace(w io.Writer, set policy.Set, cluster policy.Cluster, c policy.Connection, from, to end) error {
	var src, dst netip.Addr
	for _, a := range from.addresses {
		for _, b := range to.addresses {
			if !src.IsValid() && a.Is4() == b.Is4() {
				src, dst = a, b
			}
		}
	}
	if !src.IsValid() {
		return fmt.Errorf("%s and %s have no addresses of one family", from.name, to.name)
	}
	fmt.Fprintf(w, "%s (%s) to %s (%s)\n", from.name, src, to.name, dst)
	denied := ""
	for _, side := range []struct {
		d         policy.Direction
		at        end
		own, peer netip.Addr
	}{{policy.Egress, from, src, dst}, {policy.Ingress, to, dst, src}} {
		if side.at.pod == nil {
			fmt.Fprintf(w, "%s at %s: no policy applies there\n", side.d, side.at.name)
			continue
		}
		c.Pod, c.Direction, c.Own, c.Peer = side.at.pod.NamespacedName, side.d, side.own, side.peer
		d, _ := naive.Decide(set, cluster, c)
		for _, r := range d.Logs {
			fmt.Fprintf(w, "%s at %s: logged by %s\n", side.d, side.at.name, r)
		}
		why := "no policy selects the pod for it, or all pass it on"
		switch d.Reason {
		case policy.ByRule:
			why = fmt.Sprintf("%s, in tier %s", d.Rule, d.Tier)
		case policy.ByTier:
			why = fmt.Sprintf("the end of tier %s: policies of it select the pod, and no rule matches", d.Tier)
		}
		fmt.Fprintf(w, "%s at %s: %s: %s\n", side.d, side.at.name, d.Action, why)
		if d.Action != policy.Allow {
			denied = fmt.Sprintf("%s at %s is denied", side.d, side.at.name)
		}
	}
	if denied != "" {
		return errors.New(denied)
	}
	return nil
}
