package route

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
)

// What others on the node say about forwarded packets. A pod's packets are forwarded, and
// every base chain at hook forward must let them pass: a verdict "accept" ends one chain,
// not the others. So there are two cases:
//
//   - Chain FORWARD of iptables with policy DROP, as docker sets it. Its rules are a list
//     that programs share; two of ours at its end accept what comes from or goes to a pod.
//     At the end, so that rules of others still decide first: only the policy is overruled.
//     They are there while the policy is DROP.
//   - A chain that is somebody's own (firewalld's), or iptables' where a rule at the end
//     rejects all, or iptables-legacy. It is theirs to change; it is named (datapath.Obstacle).
//
// Whether a chain that drops has rules that let pods pass cannot be computed here. It counts
// as if it had when any rule of its table names the pods' devices (tw…).

// podDevices is how names of pods' devices on the node begin, and of the devices by which
// the host stack receives for them (hostIfName; package ipvlan).
const podDevices = "tw"

const forwardComment = "terway: packets of pods pass"

// forwarding is what the last look found.
type forwarding struct {
	socket *nl.NetlinkSocket // to ask for the ruleset's generation

	generation uint32
	known      bool // the generation is that of the last look
	nft        []string

	legacyLooked time.Time
	legacy       []string
}

// legacyPeriod: iptables-legacy tells nobody of changes, and its table is read as a whole,
// which Sync would do more often. A pod that is not reached waits for its cause no longer.
const legacyPeriod = 10 * time.Second

// ensureForward lets pods' packets pass where we may, and remembers what is in their way.
// As long as nobody changed the ruleset it costs one small request. The caller holds syncMu.
func (d *Datapath) ensureForward() ([]string, error) {
	f := &d.forward
	var errs []error
	if now := time.Now(); now.Sub(f.legacyLooked) >= legacyPeriod {
		var err error
		if f.legacy, err = legacyObstacles(d.ns); err != nil {
			errs = append(errs, err)
		}
		f.legacyLooked = now
	}
	generation, err := f.current(d.ns)
	if err != nil {
		return nil, errors.Join(append(errs, err)...)
	}
	if f.known && f.generation == generation {
		return nil, errors.Join(errs...)
	}
	repairs, obstacles, err := d.nft.forward()
	if err == nil {
		// What we wrote made another generation: the next look is for nothing, but sees
		// what others did meanwhile.
		f.generation, f.known, f.nft = generation, len(repairs) == 0, obstacles
	}
	return repairs, errors.Join(append(errs, err)...)
}

// obstacles are what is in the pods' packets' way, as errors.
func (f *forwarding) obstacles() []error {
	var errs []error
	for _, text := range slices.Concat(f.nft, f.legacy) {
		errs = append(errs, &datapath.Obstacle{What: text})
	}
	return errs
}

// current asks for the generation of the nftables ruleset, which changes with each transaction.
func (f *forwarding) current(ns netns.NsHandle) (uint32, error) {
	if f.socket == nil {
		s, err := nl.GetNetlinkSocketAt(ns, netns.None(), unix.NETLINK_NETFILTER)
		if err != nil {
			return 0, fmt.Errorf("open netfilter netlink socket: %w", err)
		}
		f.socket = s
	}
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: {Socket: f.socket}}
	req.AddRawData([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0})
	answers, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		f.close()
		return 0, fmt.Errorf("ask for the generation of the nftables ruleset: %w", err)
	}
	for _, a := range answers {
		if len(a) < 4 {
			continue
		}
		attrs, err := nl.ParseRouteAttr(a[4:])
		if err != nil {
			continue
		}
		for _, at := range attrs {
			if at.Attr.Type == unix.NFTA_GEN_ID && len(at.Value) == 4 {
				return nl.NativeEndian().Uint32(at.Value), nil
			}
		}
	}
	return 0, errors.New("ask for the generation of the nftables ruleset: the answer has none")
}

func (f *forwarding) close() {
	if f.socket != nil {
		f.socket.Close()
		f.socket = nil
	}
	f.known = false
}

// IsForwardRule reports whether a rule's user data say that it is one of ours in a chain
// of iptables.
func IsForwardRule(userData []byte) bool {
	comment, _ := userdata.GetString(userData, userdata.TypeComment)
	return comment == forwardComment
}

// forward looks at every chain at hook forward.
func (n *nft) forward() (repairs, obstacles []string, err error) {
	err = n.do(func(c *nftables.Conn) error {
		repairs, obstacles = nil, nil
		chains, err := c.ListChains()
		if err != nil {
			return fmt.Errorf("list nftables chains: %w", err)
		}
		for _, chain := range chains {
			if !atForward(chain) {
				continue
			}
			rules, err := c.GetRules(chain.Table, chain)
			if errors.Is(err, unix.ENOENT) {
				continue // deleted just now
			}
			if unreadable(err) {
				continue // nothing is said of it
			}
			if err != nil {
				return fmt.Errorf("list rules of chain %s of table %s: %w", chain.Name, tableText(chain.Table), err)
			}
			if iptablesChain(chain) {
				repair, err := acceptPods(c, chain, rules)
				if err != nil {
					return err
				}
				if repair != "" {
					repairs = append(repairs, repair)
				}
				if !rejectsAll(rules) {
					continue
				}
			} else if !rejectsAll(rules) && (chain.Policy == nil || *chain.Policy != nftables.ChainPolicyDrop) {
				continue
			}
			if !namesPods(c, chains, chain.Table) {
				obstacles = append(obstacles, obstacleText(chain, rules))
			}
		}
		return nil
	})
	return repairs, obstacles, err
}

func atForward(c *nftables.Chain) bool {
	return c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward && c.Table.Name != TableName &&
		slices.Contains([]nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyIPv4, nftables.TableFamilyIPv6}, c.Table.Family)
}

func iptablesChain(c *nftables.Chain) bool {
	return c.Name == "FORWARD" && c.Table.Name == "filter" && c.Table.Family != nftables.TableFamilyINet
}

// acceptPods adds our rules to iptables' chain, or takes them out, as its policy asks for.
func acceptPods(c *nftables.Conn, chain *nftables.Chain, rules []*nftables.Rule) (repair string, err error) {
	var ours []*nftables.Rule
	for _, r := range rules {
		if IsForwardRule(r.UserData) {
			ours = append(ours, r)
		}
	}
	at := fmt.Sprintf("chain FORWARD of table %s", tableText(chain.Table))
	want := forwardRules(chain)
	drops := chain.Policy != nil && *chain.Policy == nftables.ChainPolicyDrop
	switch {
	case drops && len(ours) == len(want), !drops && len(ours) == 0:
		return "", nil
	case drops:
		repair = at + " drops by policy: added rules that accept pods' packets"
	default:
		repair, want = at+" accepts by policy: removed the rules that accept pods' packets", nil
	}
	for _, r := range ours {
		if err := c.DelRule(r); err != nil {
			return "", fmt.Errorf("%s: remove rule: %w", at, err)
		}
	}
	for _, r := range want {
		c.AddRule(r)
	}
	if err := c.Flush(); err != nil {
		return "", fmt.Errorf("%s: let pods' packets pass: %w", at, err)
	}
	return repair, nil
}

// forwardRules are `-i tw+ -j ACCEPT` and `-o tw+ -j ACCEPT`, written as iptables-nft does,
// which lists only what it could have written itself.
func forwardRules(chain *nftables.Chain) []*nftables.Rule {
	var rules []*nftables.Rule
	for _, key := range []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME} {
		rules = append(rules, &nftables.Rule{
			Table: chain.Table, Chain: chain, UserData: userdata.AppendString(nil, userdata.TypeComment, forwardComment),
			Exprs: []expr.Any{
				&expr.Meta{Key: key, Register: 1},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte(podDevices)},
				&expr.Counter{},
				&expr.Verdict{Kind: expr.VerdictAccept},
			},
		})
	}
	return rules
}

// unreadable says that rules are there, but have an expression that the library does not
// decode, such as `ct original ip saddr`.
func unreadable(err error) bool {
	var refused unix.Errno
	return err != nil && !errors.As(err, &refused)
}

// removeForward takes our rules out of every chain.
func (n *nft) removeForward() error {
	return n.do(func(c *nftables.Conn) error {
		chains, err := c.ListChains()
		if err != nil {
			return fmt.Errorf("list nftables chains: %w", err)
		}
		for _, chain := range chains {
			if !atForward(chain) || !iptablesChain(chain) {
				continue
			}
			rules, err := c.GetRules(chain.Table, chain)
			if err != nil {
				return fmt.Errorf("list rules of chain %s of table %s: %w", chain.Name, tableText(chain.Table), err)
			}
			for _, r := range rules {
				if IsForwardRule(r.UserData) {
					if err := c.DelRule(r); err != nil {
						return fmt.Errorf("remove rule from chain %s of table %s: %w", chain.Name, tableText(chain.Table), err)
					}
				}
			}
		}
		return c.Flush()
	})
}

// rejectsAll reports whether a rule drops or rejects whatever reaches it, and nothing of
// ours comes before it.
func rejectsAll(rules []*nftables.Rule) bool {
	for _, r := range rules {
		if IsForwardRule(r.UserData) {
			return false
		}
		if unconditional(r) {
			return true
		}
	}
	return false
}

func unconditional(r *nftables.Rule) (rejects bool) {
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Counter, *expr.Log:
		case *expr.Reject:
			rejects = true
		case *expr.Target:
			rejects = e.Name == "REJECT"
		case *expr.Verdict:
			rejects = e.Kind == expr.VerdictDrop
		default:
			return false
		}
	}
	return rejects
}

// namesPods reports whether a rule of the table, other than ours, compares a device's name with
// that of pods' devices. Rules that cannot be read name nothing.
func namesPods(c *nftables.Conn, chains []*nftables.Chain, table *nftables.Table) bool {
	for _, chain := range chains {
		if chain.Table.Family != table.Family || chain.Table.Name != table.Name {
			continue
		}
		rules, err := c.GetRules(table, chain)
		if err != nil {
			continue
		}
		for _, r := range rules {
			if !IsForwardRule(r.UserData) && slices.ContainsFunc(r.Exprs, comparesPodDevice) {
				return true
			}
		}
	}
	return false
}

func comparesPodDevice(e expr.Any) bool {
	c, ok := e.(*expr.Cmp)
	return ok && c.Op == expr.CmpOpEq && bytes.HasPrefix(c.Data, []byte(podDevices))
}

func obstacleText(chain *nftables.Chain, rules []*nftables.Rule) string {
	how := "drops by policy what its rules do not accept"
	if rejectsAll(rules) {
		how = "rejects by a rule at its end what the others do not accept"
	}
	text := fmt.Sprintf("nftables: chain %s of table %s %s, and no rule of the table names pods' devices (%s*): "+
		"pods may not reach each other. Terway cannot overrule it; ", chain.Name, tableText(chain.Table), how, podDevices)
	switch {
	case iptablesChain(chain):
		return text + "do so with: iptables -I FORWARD -i tw+ -j ACCEPT; iptables -I FORWARD -o tw+ -j ACCEPT (ip6tables too)"
	case strings.HasPrefix(chain.Table.Name, "firewalld"):
		return text + "let firewalld trust them: firewall-cmd --permanent --zone=trusted --add-interface=tw+ && firewall-cmd --reload"
	}
	return text + fmt.Sprintf("add to that chain: iifname \"%[1]s*\" accept; oifname \"%[1]s*\" accept", podDevices)
}

func tableText(t *nftables.Table) string {
	family := "inet"
	switch t.Family {
	case nftables.TableFamilyIPv4:
		family = "ip"
	case nftables.TableFamilyIPv6:
		family = "ip6"
	}
	return family + " " + t.Name
}
