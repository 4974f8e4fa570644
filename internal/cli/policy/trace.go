package policy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/agent/policyapi"
	"terway.dev/terway/internal/cli/podexec"
	"terway.dev/terway/internal/cli/program"
	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/translate"
)

// A DifferError says that a node's kernel judges a connection otherwise than policies say.
type DifferError struct{ Where []string }

func (e *DifferError) Error() string {
	return "the kernel does not do what policies say: " + strings.Join(e.Where, "; ")
}

// ExitStatus is that of the program.
func (e *DifferError) ExitStatus() int { return 3 }

// settle is how long a change may take from the API server to the nodes: what differs is asked once more after it.
const settle = time.Second

func traceCommand(d dial) *cobra.Command {
	from := source{dial: d}
	var source, destination, port string
	var output program.Output
	cmd := &cobra.Command{
		Use:   "trace [--offline DIR] --from END --to END --port tcp/80",
		Short: "Show the verdict of policies on a connection, and the rule that decides",
		Long: `Compiles the policies, and prints what they say at the end that opens a connection (egress)
and at the other end (ingress), with the deciding rules. A pod is given as NAMESPACE/NAME or
by its address, other ends as an address. Pods in the host network have their node's address,
and no policy.

Without --offline it reads the cluster, and asks the kernels of both pods' nodes too, by the
programs and maps that judge packets there. Where a kernel says something else, it is asked
again after a second, as a change may be on its way.

The address and port are those of the pod behind a Service, not the Service's.
The exit status is 0 if the connection is allowed, 1 if it is denied and for an error, and 3
if a kernel differs from what policies say: the last line says where.

` + needs + `. To ask
nodes it also needs to list pods there, and to get and create pods/exec: it runs "terwayd ask"
in the agents' pods.`,
		Example: `  terwayctl policy trace --from shop/web --to shop/db --port tcp/5432
  terwayctl policy trace --offline policies --from 198.51.100.7 --to shop/web --port 443
  terwayctl policy trace --offline policies --from shop/web --to 10.0.0.9 --port icmp/8`,
		Args: program.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			once := func() (*traced, error) {
				o, err := from.read(cmd)
				if err != nil {
					return nil, err
				}
				cluster, notes := translate.Cluster(o)
				set, more := translate.Policies(o, from.options)
				for _, n := range append(more, notes...) {
					fmt.Fprintln(cmd.ErrOrStderr(), n)
				}
				c, err := connection(port)
				a, aerr := from.endOf(cluster, "--from", source)
				b, berr := from.endOf(cluster, "--to", destination)
				if err := errors.Join(err, aerr, berr); err != nil {
					return nil, err
				}
				t, err := compiled(set, cluster)
				if err != nil {
					return nil, err
				}
				return t.trace(cmd.Context(), from.online, c, a, b)
			}
			out, err := once()
			if differ := (*DifferError)(nil); errors.As(err, &differ) {
				select {
				case <-time.After(settle):
				case <-cmd.Context().Done():
					return cmd.Context().Err()
				}
				out, err = once()
			}
			if out == nil {
				return err
			}
			return errors.Join(err, output.Write(cmd.OutOrStdout(), out, out.write))
		},
	}
	from.flags(cmd)
	f := cmd.Flags()
	output.Add(f)
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

func (s *source) endOf(cluster policy.Cluster, flag, text string) (end, error) {
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
		return end{}, program.Usagef("%s %q: want NAMESPACE/NAME of a pod, or an address", flag, text)
	}
	p := cluster.Pods[policy.NamespacedName{Namespace: namespace, Name: name}]
	switch {
	case p == nil:
		return end{}, fmt.Errorf("%s %s: there is no such pod in %s", flag, text, s.place())
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
	wrong := program.Usagef("--port %q: want for example tcp/80, udp/53, icmp/8 or 47/0", text)
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

// A traced is what is said of a connection.
type traced struct {
	From  tracedEnd `json:"from"`
	To    tracedEnd `json:"to"`
	Sides []side    `json:"sides"`
}

type tracedEnd struct {
	Name    string `json:"name"`
	Address string `json:"address"`
}

// A side is what is said at one end.
type side struct {
	Direction string `json:"direction"`
	At        string `json:"at"`
	// Decision is nil where no policy applies.
	Decision *policyapi.Decision `json:"decision,omitempty"`
	Kernel   *kernel             `json:"kernel,omitempty"`

	decision policy.Decision
}

// A kernel is what a node's says.
type kernel struct {
	Node string `json:"node"`
	Same bool   `json:"same"`
	// Decision and State are what it says and has, if it is not the same.
	Decision *policyapi.Decision `json:"decision,omitempty"`
	State    string              `json:"state,omitempty"`

	decision policy.Decision
}

// trace returns what is said at both ends. o is nil if no kernel is asked.
func (t tables) trace(ctx context.Context, o *online, c policy.Connection, from, to end) (*traced, error) {
	var src, dst netip.Addr
	for _, a := range from.addresses {
		for _, b := range to.addresses {
			if !src.IsValid() && a.Is4() == b.Is4() {
				src, dst = a, b
			}
		}
	}
	if !src.IsValid() {
		return nil, fmt.Errorf("%s and %s have no addresses of one family", from.name, to.name)
	}
	out := &traced{From: tracedEnd{from.name, src.String()}, To: tracedEnd{to.name, dst.String()}}
	denied := ""
	var failed []error
	var differ DifferError
	for _, of := range []struct {
		d         policy.Direction
		at        end
		own, peer netip.Addr
	}{{policy.Egress, from, src, dst}, {policy.Ingress, to, dst, src}} {
		s := side{Direction: of.d.String(), At: of.at.name}
		if of.at.pod != nil {
			c.Pod, c.Direction, c.Own, c.Peer = of.at.pod.NamespacedName, of.d, of.own, of.peer
			s.decision = t.decide(of.at.pod.Node, c)
			said := policyapi.DecisionOf(s.decision)
			s.Decision = &said
			if s.decision.Action != policy.Allow {
				denied = s.where() + " is denied"
			}
			if o != nil {
				var err error
				if s.Kernel, err = o.compare(ctx, of.at.pod.Node, c, s.decision); err != nil {
					failed = append(failed, fmt.Errorf("%s: %w", s.where(), err))
				} else if k := s.Kernel; !k.Same {
					differ.Where = append(differ.Where, fmt.Sprintf("%s: node %s says %s: %s, and policies say %s: %s",
						s.where(), k.Node, k.decision.Action, because(k.decision), s.decision.Action, because(s.decision)))
				}
			}
		}
		out.Sides = append(out.Sides, s)
	}
	switch {
	case len(differ.Where) > 0:
		return out, errors.Join(append([]error{&differ}, failed...)...)
	case len(failed) > 0:
		return out, errors.Join(failed...)
	case denied != "":
		return out, errors.New(denied)
	}
	return out, nil
}

func (s *side) where() string { return s.Direction + " at " + s.At }

// write prints it for people.
func (t *traced) write(w io.Writer) error {
	_, err := fmt.Fprintf(w, "%s (%s) to %s (%s)\n", t.From.Name, t.From.Address, t.To.Name, t.To.Address)
	for _, s := range t.Sides {
		if s.Decision == nil {
			_, err = fmt.Fprintf(w, "%s: no policy applies there\n", s.where())
			continue
		}
		err = tell(w, s.where(), s.decision)
		switch k := s.Kernel; {
		case k == nil:
		case k.Same:
			_, err = fmt.Fprintf(w, "  node %s: its kernel says the same\n", k.Node)
		default:
			_ = tell(w, fmt.Sprintf("  node %s: its kernel says", k.Node), k.decision)
			_, err = fmt.Fprintf(w, "  node %s: %s\n", k.Node, k.State)
		}
	}
	return err
}

// tables are those of nodes, as far as they were asked for.
type tables struct {
	compiler *compile.Compiler
	maps     map[string]*compile.Maps
}

func compiled(set policy.Set, cluster policy.Cluster) (tables, error) {
	c, err := compile.Compile(set, cluster, compile.DefaultBudget)
	return tables{c, map[string]*compile.Maps{}}, err
}

// decide returns what the tables of a pod's node say.
func (t tables) decide(node string, c policy.Connection) policy.Decision {
	m := t.maps[node]
	if m == nil {
		m = t.compiler.ForNode(node).Maps()
		t.maps[node] = m
	}
	return m.Decision(m.Lookup(compile.Packet{
		Endpoint: m.EndpointOf[c.Pod], Direction: c.Direction, Peer: c.Peer, Protocol: c.Protocol,
		SourcePort: c.SourcePort, DestinationPort: c.DestinationPort, ICMPType: c.ICMPType, ICMPCode: c.ICMPCode,
	}))
}

func tell(w io.Writer, where string, d policy.Decision) error {
	for _, r := range d.Logs {
		fmt.Fprintf(w, "%s: logged by %s\n", where, r)
	}
	_, err := fmt.Fprintf(w, "%s: %s: %s\n", where, d.Action, because(d))
	return err
}

// because is what decided.
func because(d policy.Decision) string {
	switch d.Reason {
	case policy.ByRule:
		return fmt.Sprintf("%s, in tier %s", d.Rule, d.Tier)
	case policy.ByTier:
		return fmt.Sprintf("the end of tier %s: policies of it select the pod, and no rule matches", d.Tier)
	case policy.Closed:
		return "the pod is closed: its node does not know its rules, or they are beyond the budget"
	}
	return "no policy selects the pod for it, or all pass it on"
}

// compare asks the kernel of a pod's node.
func (o *online) compare(ctx context.Context, node string, c policy.Connection, want policy.Decision) (*kernel, error) {
	if node == "" {
		return nil, errors.New("the pod is on no node yet")
	}
	answer, err := o.ask(ctx, node, policyapi.Question(c).Path())
	if err != nil {
		return nil, fmt.Errorf("the kernel was not asked: %w", err)
	}
	a, got, err := policyapi.ReadAnswer(answer)
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", node, err)
	}
	if reflect.DeepEqual(got, want) {
		return &kernel{Node: node, Same: true}, nil
	}
	return &kernel{Node: node, Decision: &a.Decision, State: podexec.Printable(a.State), decision: got}, nil
}
