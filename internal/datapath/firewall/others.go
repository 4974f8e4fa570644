package firewall

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/attr"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/nft"
	"terway.dev/terway/internal/netlinkx"
)

// Reads other programs' rules, only as far as needed for forwarding. The nftables library decodes a
// rule completely or not at all, and some expressions are always unknown to it; nor does it skip
// chains that are not at hook forward, of which kube-proxy has thousands.

// nfgenHeader is the length of struct nfgenmsg: family, version, resource id.
const nfgenHeader = 4

// foreign is a rule in a chain of another program; the rule may be ours.
type foreign struct {
	handle   uint64
	userData []byte
	exprs    []expression
}

// expression is an expression of a rule: its kind, and attributes whose meaning depends on the
// kind.
type expression struct {
	name string
	data []byte
}

func (r foreign) ours() bool { return IsForwardRule(r.userData) }

// nfDrop is NF_DROP of linux/netfilter.h.
const nfDrop = 0

// always returns the verdict that a rule has for every packet, and the chain of a jump. It is
// NFT_CONTINUE where the rule compares the packet, or has no verdict. Rejecting counts as dropping.
func (r foreign) always() (verdict int32, to string) {
	verdict = unix.NFT_CONTINUE
	for _, e := range r.exprs {
		switch e.name {
		case "counter", "log":
		case "match": // of iptables
			if attr.Text(attr.Get(e.data, unix.NFTA_MATCH_NAME)) != "comment" {
				return unix.NFT_CONTINUE, ""
			}
		case "reject":
			verdict = nfDrop
		case "target": // of iptables
			if attr.Text(attr.Get(e.data, unix.NFTA_TARGET_NAME)) == "REJECT" {
				verdict = nfDrop
			}
		case "immediate":
			v := attr.Get(e.data, unix.NFTA_IMMEDIATE_DATA, unix.NFTA_DATA_VERDICT)
			code, ok := attr.Big(attr.Get(v, unix.NFTA_VERDICT_CODE))
			if !ok {
				return unix.NFT_CONTINUE, "" // no verdict: a value for the next expression
			}
			verdict, to = int32(code), attr.Text(attr.Get(v, unix.NFTA_VERDICT_CHAIN))
		default:
			return unix.NFT_CONTINUE, ""
		}
	}
	return verdict, to
}

// comparesPodDevice reports whether a rule matches the names of pods' devices.
func (r foreign) comparesPodDevice() bool {
	return slices.ContainsFunc(r.exprs, func(e expression) bool {
		op, ok := attr.Big(attr.Get(e.data, unix.NFTA_CMP_OP))
		return e.name == "cmp" && ok && op == unix.NFT_CMP_EQ &&
			bytes.HasPrefix(attr.Get(e.data, unix.NFTA_CMP_DATA, unix.NFTA_DATA_VALUE), []byte(claims.DevicePrefix))
	})
}

// current returns the generation of the nftables ruleset, which changes with each transaction.
func (f *Firewall) current() (generation uint32, err error) {
	has := false
	err = f.ask(unix.NFT_MSG_GETGEN, 0, []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0}, func(b []byte) {
		if id := attr.Get(b[nfgenHeader:], unix.NFTA_GEN_ID); len(id) == 4 {
			generation, has = binary.NativeEndian.Uint32(id), true
		}
	})
	if err == nil && !has {
		err = errors.New("the answer has none")
	}
	if err != nil {
		return 0, fmt.Errorf("read the generation of the nftables ruleset: %w", err)
	}
	return generation, nil
}

// chains returns the chains at hook forward that are not ours.
func (f *Firewall) chains() (list []*nftables.Chain, err error) {
	err = f.list(unix.NFT_MSG_GETCHAIN, []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0}, func() { list = nil }, func(b []byte) {
		family, attrs := nftables.TableFamily(b[0]), b[nfgenHeader:]
		hook, ok := attr.Big(attr.Get(attrs, unix.NFTA_CHAIN_HOOK, unix.NFTA_HOOK_HOOKNUM))
		if !ok || hook != unix.NF_INET_FORWARD ||
			!slices.Contains([]nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyIPv4, nftables.TableFamilyIPv6}, family) {
			return
		}
		c := &nftables.Chain{
			Table: &nftables.Table{Family: family, Name: attr.Text(attr.Get(attrs, unix.NFTA_CHAIN_TABLE))},
			Name:  attr.Text(attr.Get(attrs, unix.NFTA_CHAIN_NAME)),
		}
		if p, ok := attr.Big(attr.Get(attrs, unix.NFTA_CHAIN_POLICY)); ok {
			policy := nftables.ChainPolicy(p)
			c.Policy = &policy
		}
		if c.Table.Name != claims.TableName {
			list = append(list, c)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	return list, nil
}

// rules returns the rules of a table by chain, in order; none if the table is gone.
func (f *Firewall) rules(t *nftables.Table) (map[string][]foreign, error) {
	req := append([]byte{byte(t.Family), unix.NFNETLINK_V0, 0, 0}, nl.NewRtAttr(unix.NFTA_RULE_TABLE, nl.ZeroTerminated(t.Name)).Serialize()...)
	table := map[string][]foreign{}
	err := f.list(unix.NFT_MSG_GETRULE, req, func() { clear(table) }, func(b []byte) {
		attrs := b[nfgenHeader:]
		r := foreign{userData: attr.Get(attrs, unix.NFTA_RULE_USERDATA)}
		if h := attr.Get(attrs, unix.NFTA_RULE_HANDLE); len(h) == 8 {
			r.handle = binary.BigEndian.Uint64(h)
		}
		for _, e := range attr.Each(attr.Get(attrs, unix.NFTA_RULE_EXPRESSIONS)) {
			r.exprs = append(r.exprs, expression{attr.Text(attr.Get(e, unix.NFTA_EXPR_NAME)), attr.Get(e, unix.NFTA_EXPR_DATA)})
		}
		chain := attr.Text(attr.Get(attrs, unix.NFTA_RULE_CHAIN))
		table[chain] = append(table[chain], r)
	})
	if err != nil {
		return nil, fmt.Errorf("list rules of table %s: %w", nft.TableText(t), err)
	}
	return table, nil
}

// list makes a dump, and repeats it when a change interrupts it: begin discards the results so far.
func (f *Firewall) list(kind int, body []byte, begin func(), answer func(b []byte)) error {
	return netlinkx.Retry(context.Background(), func() error {
		begin()
		return f.ask(kind, unix.NLM_F_DUMP, body, answer)
	})
}

// ask sends a request of nftables and passes each answer to a function.
func (f *Firewall) ask(kind, flags int, body []byte, answer func(b []byte)) error {
	if f.socket == nil {
		s, err := nl.GetNetlinkSocketAt(f.ns, netns.None(), unix.NETLINK_NETFILTER)
		if err != nil {
			return fmt.Errorf("open netfilter netlink socket: %w", err)
		}
		f.socket = &nl.SocketHandle{Socket: s}
	}
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: f.socket}
	req.AddRawData(body)
	err := req.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(b []byte) bool {
		if len(b) >= nfgenHeader {
			answer(b)
		}
		return true
	})
	if err != nil && !errors.Is(err, nl.ErrDumpInterrupted) {
		f.Close() // it may still hold answers
	}
	return err
}

// Close closes the socket; the next read opens a new one.
func (f *Firewall) Close() {
	if f.socket != nil {
		f.socket.Close()
		f.socket = nil
	}
	f.known = false
}
