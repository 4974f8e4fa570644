package firewall

import (
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
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/nft"
)

// Comment is in the user data of our rules in a chain of iptables.
const Comment = "terway: packets of pods pass"

// Firewall has the state of other programs' rules in one namespace, as last read. It is not safe
// for concurrent use.
type Firewall struct {
	ns     netns.NsHandle
	tables *nft.Tables // its socket writes

	socket *nl.SocketHandle // reads the ruleset

	generation uint32
	known      bool // the generation is that of the last read
	nft        []string

	legacyLooked time.Time
	legacy       []string
}

// legacyPeriod is how often iptables-legacy is read: it sends no notifications, and its table is
// read as a whole, which is too much for every Sync. An unreachable pod waits this long for its
// cause to be reported.
const legacyPeriod = 10 * time.Second

// New returns the firewall of a namespace, which the caller keeps open. It does not read the
// kernel.
func New(ns netns.NsHandle, tables *nft.Tables) *Firewall { return &Firewall{ns: ns, tables: tables} }

// Ensure makes chains accept pods' packets where Terway may change them, and records the obstacles.
// It returns what it changed. While nobody changes the ruleset it costs one small request.
func (f *Firewall) Ensure() ([]string, error) {
	var errs []error
	if now := time.Now(); now.Sub(f.legacyLooked) >= legacyPeriod {
		var err error
		if f.legacy, err = legacyObstacles(f.ns); err != nil {
			errs = append(errs, err)
		}
		f.legacyLooked = now
	}
	generation, err := f.current()
	if err != nil {
		return nil, errors.Join(append(errs, err)...)
	}
	if f.known && f.generation == generation {
		return nil, errors.Join(errs...)
	}
	repairs, obstacles, err := f.look()
	if err == nil {
		// Our own change made a new generation: the next call reads everything again, and sees what
		// others changed meanwhile.
		f.generation, f.known, f.nft = generation, len(repairs) == 0, obstacles
	}
	return repairs, errors.Join(append(errs, err)...)
}

// Obstacles returns the obstacles of the last read, each a datapath.Obstacle.
func (f *Firewall) Obstacles() []error {
	var errs []error
	for _, text := range slices.Concat(f.nft, f.legacy) {
		errs = append(errs, &datapath.Obstacle{What: text})
	}
	return errs
}

// IsForwardRule reports whether a rule's user data mark it as one of ours in a chain of iptables.
func IsForwardRule(userData []byte) bool {
	comment, _ := userdata.GetString(userData, userdata.TypeComment)
	return comment == Comment
}

// look reads every chain at hook forward.
func (f *Firewall) look() (repairs, obstacles []string, err error) {
	chains, err := f.chains()
	if err != nil {
		return nil, nil, err
	}
	for _, chain := range chains {
		table, err := f.rules(chain.Table)
		if err != nil {
			return repairs, obstacles, err
		}
		rejects := rejectsAll(table, chain.Name)
		if iptablesChain(chain) {
			repair, err := acceptPods(f.tables, chain, table[chain.Name])
			if err != nil {
				return repairs, obstacles, err
			}
			if repair != "" {
				repairs = append(repairs, repair)
			}
			if !rejects {
				continue
			}
		} else if !rejects && !drops(chain) {
			continue
		}
		if !namesPods(table) {
			obstacles = append(obstacles, obstacleText(chain, rejects))
		}
	}
	return repairs, obstacles, nil
}

func drops(c *nftables.Chain) bool {
	return c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop
}

func iptablesChain(c *nftables.Chain) bool {
	return c.Name == "FORWARD" && c.Table.Name == "filter" && c.Table.Family != nftables.TableFamilyINet
}

// acceptPods adds our rules to iptables' chain, or removes them, depending on its policy.
func acceptPods(n *nft.Tables, chain *nftables.Chain, rules []foreign) (repair string, err error) {
	at := fmt.Sprintf("chain FORWARD of table %s", nft.TableText(chain.Table))
	ours, want := 0, forwardRules(chain)
	for _, r := range rules {
		if r.ours() {
			ours++
		}
	}
	switch drops := drops(chain); {
	case drops && ours == len(want), !drops && ours == 0:
		return "", nil
	case drops:
		repair = at + " drops by policy: added rules that accept pods' packets"
	default:
		repair, want = at+" accepts by policy: removed the rules that accept pods' packets", nil
	}
	if err := replaceForward(n, chain, rules, want); err != nil {
		return "", fmt.Errorf("%s: accept pods' packets: %w", at, err)
	}
	return repair, nil
}

// replaceForward removes our rules from a chain and adds others at its end, in one transaction.
func replaceForward(n *nft.Tables, chain *nftables.Chain, rules []foreign, want []*nftables.Rule) error {
	return n.Do(func(c *nftables.Conn) error {
		for _, r := range rules {
			if !r.ours() {
				continue
			}
			if err := c.DelRule(&nftables.Rule{Table: chain.Table, Chain: chain, Handle: r.handle}); err != nil {
				return fmt.Errorf("remove rule: %w", err)
			}
		}
		for _, r := range want {
			c.AddRule(r)
		}
		return c.Flush()
	})
}

// forwardRules returns `-i tw+ -j ACCEPT` and `-o tw+ -j ACCEPT`, in the form of iptables-nft,
// which lists only rules in its own form.
func forwardRules(chain *nftables.Chain) []*nftables.Rule {
	var rules []*nftables.Rule
	for _, key := range []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME} {
		rules = append(rules, &nftables.Rule{
			Table: chain.Table, Chain: chain, UserData: userdata.AppendString(nil, userdata.TypeComment, Comment),
			Exprs: []expr.Any{
				&expr.Meta{Key: key, Register: 1},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte(claims.DevicePrefix)},
				&expr.Counter{},
				&expr.Verdict{Kind: expr.VerdictAccept},
			},
		})
	}
	return rules
}

// Remove removes our rules from every chain.
func (f *Firewall) Remove() error {
	chains, err := f.chains()
	errs := []error{err}
	for _, chain := range chains {
		if !iptablesChain(chain) {
			continue
		}
		table, err := f.rules(chain.Table)
		if err == nil && slices.ContainsFunc(table[chain.Name], foreign.ours) {
			err = replaceForward(f.tables, chain, table[chain.Name], nil)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("remove rules from chain %s of table %s: %w", chain.Name, nft.TableText(chain.Table), err))
		}
	}
	return errors.Join(errs...)
}

// rejectsAll reports whether a chain drops or rejects whatever reaches it, by its own rule or by
// one of a chain to which it jumps, without a rule of ours before.
func rejectsAll(table map[string][]foreign, chain string) bool {
	seen := map[string]bool{} // a chain that was already visited does not reject all
	var walk func(chain string) bool
	walk = func(chain string) bool {
		if seen[chain] {
			return false
		}
		seen[chain] = true
		for _, r := range table[chain] {
			if r.ours() {
				return false
			}
			switch verdict, to := r.always(); verdict {
			case nfDrop:
				return true
			case unix.NFT_JUMP:
				if walk(to) {
					return true
				}
			case unix.NFT_GOTO:
				return walk(to)
			case unix.NFT_CONTINUE:
			default: // accept, return, queue: no packet goes on
				return false
			}
		}
		return false
	}
	return walk(chain)
}

// namesPods reports whether a rule of a table, other than ours, compares a device's name with the
// names of pods' devices.
func namesPods(table map[string][]foreign) bool {
	for _, rules := range table {
		if slices.ContainsFunc(rules, func(r foreign) bool { return !r.ours() && r.comparesPodDevice() }) {
			return true
		}
	}
	return false
}

// How a chain blocks packets.
const (
	policyDrops = "drops by policy what its rules do not accept"
	ruleRejects = "rejects by a rule at its end what the others do not accept"
)

func obstacleText(chain *nftables.Chain, rejects bool) string {
	how := policyDrops
	if rejects {
		how = ruleRejects
	}
	text := fmt.Sprintf("nftables: chain %s of table %s %s, and no rule of the table names pods' devices (%s*): "+
		"pods may not reach each other. Terway cannot overrule it; ", chain.Name, nft.TableText(chain.Table), how, claims.DevicePrefix)
	switch {
	case iptablesChain(chain):
		return text + "run: iptables -I FORWARD -i tw+ -j ACCEPT; iptables -I FORWARD -o tw+ -j ACCEPT (ip6tables too)"
	case strings.HasPrefix(chain.Table.Name, "firewalld"):
		return text + "make firewalld trust them: firewall-cmd --permanent --zone=trusted --add-interface=tw+ && firewall-cmd --reload"
	}
	return text + fmt.Sprintf("add to that chain: iifname \"%[1]s*\" accept; oifname \"%[1]s*\" accept", claims.DevicePrefix)
}
