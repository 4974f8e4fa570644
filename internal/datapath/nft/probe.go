package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
)

// Supported returns what the kernel lacks for the tables, or nil: a datapath.UnsupportedError, or
// the error that prevented the test. It writes them into a namespace that was made for the test.
func Supported(scratch netns.NsHandle) error {
	rs, err := NewRuleset(anyNode())
	if err != nil {
		return err
	}
	return supportsRuleset(rs, func(f func(*nftables.Conn) error) error {
		n := New(scratch)
		return errors.Join(n.Do(f), n.Close())
	})
}

// anyNode returns a node that needs every rule, for the families of the kernel.
func anyNode() datapath.Node {
	node := datapath.Node{MasqueradeOutside: true, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
	if _, err := os.Stat("/proc/thread-self/net/if_inet6"); err == nil {
		node.Addresses = append(node.Addresses, netip.MustParseAddr("2001:db8::1"))
	}
	for _, a := range node.Addresses {
		node.VPCCIDRs = append(node.VPCCIDRs, netip.PrefixFrom(a, a.BitLen()))
	}
	return node
}

// answers are those of kernels without nftables, or without what a piece needs.
var answers = []error{unix.EOPNOTSUPP, unix.ENOENT, unix.EINVAL, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT}

// supportsRuleset writes the whole ruleset, as for a node, and if the kernel rejects it determines
// which piece it rejects.
func supportsRuleset(rs Ruleset, do func(func(*nftables.Conn) error) error) error {
	refused := do(func(c *nftables.Conn) error { return build(c, rs, nil, nil, &expr.Counter{}) })
	if refused == nil {
		return nil
	}
	// Each piece needs those before it: they are in one transaction.
	var before []func(*nftables.Conn) error
	for _, p := range pieces(rs) {
		before = append(before, p.add)
		err := do(func(c *nftables.Conn) error {
			for _, t := range rs.tables()[:p.tables] {
				c.AddTable(t)
				c.DelTable(t)
				c.AddTable(t)
			}
			for _, add := range before {
				if err := add(c); err != nil {
					return err
				}
			}
			return c.Flush()
		})
		if err != nil {
			return datapath.Lacks(p.feature, err, answers...)
		}
	}
	return datapath.Lacks("what Terway's nftables tables need", refused, answers...)
}

type piece struct {
	feature string
	tables  int // how many of the ruleset's tables it needs
	add     func(*nftables.Conn) error
}

// pieces returns the ruleset in the order in which it can be written, with the names of kernel
// features. Versions are those in which a feature appeared.
func pieces(rs Ruleset) []piece {
	list := []piece{
		{"nftables for both families (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET)", 1, func(*nftables.Conn) error { return nil }},
		{"maps with several types in a key in nftables (CONFIG_NF_TABLES, Linux 4.1)", 1, func(c *nftables.Conn) error {
			return rs.addSets(c, rs.sets()[:2])
		}},
		{"sets of intervals in nftables (CONFIG_NF_TABLES; before Linux 4.20 CONFIG_NFT_SET_RBTREE)", 1, func(c *nftables.Conn) error {
			return rs.addSets(c, rs.sets()[2:])
		}},
		{"named counters in nftables (CONFIG_NFT_OBJREF, CONFIG_NFT_COUNTER, Linux 4.10)", 1, func(c *nftables.Conn) error {
			c.AddObj(spoofedCounter(&expr.Counter{}))
			return nil
		}},
	}
	for i, table := range rs.tables() {
		feature := "chains of nftables where packets arrive"
		if table != rs.table {
			feature = fmt.Sprintf("NAT in nftables, family %s (CONFIG_NFT_NAT; before Linux 5.1 CONFIG_NFT_CHAIN_NAT_IPV4 and _IPV6)", TableText(table))
		}
		list = append(list, piece{feature, i + 1, func(c *nftables.Conn) error {
			for _, chain := range rs.chains {
				if chain.Table == table {
					c.AddChain(chain)
				}
			}
			return nil
		}})
		for _, r := range rs.rules {
			if r.chain.Table != table {
				continue
			}
			list = append(list, piece{featureOf(r), i + 1, func(c *nftables.Conn) error {
				rule, err := r.nftRule()
				if err == nil {
					c.AddRule(rule)
				}
				return err
			}})
		}
	}
	return list
}

// featureOf names the newest or most often missing feature among a rule's expressions.
func featureOf(r rule) string {
	feature := fmt.Sprintf("what the nftables rule %q needs", r.purpose)
	for _, e := range r.exprs {
		switch e.(type) {
		case *expr.Ct:
			feature = "connection tracking in nftables (CONFIG_NFT_CT)"
		case *expr.Objref:
			feature = "rules with named counters in nftables (CONFIG_NFT_OBJREF, Linux 4.10)"
		case *expr.Fib:
			return "questions to the routing tables in nftables (CONFIG_NFT_FIB_IPV4 and _IPV6, Linux 4.10)"
		case *expr.Masq:
			return "masquerade in nftables (CONFIG_NFT_MASQ; before Linux 5.1 CONFIG_NFT_MASQ_IPV4 and _IPV6)"
		}
	}
	return feature
}
