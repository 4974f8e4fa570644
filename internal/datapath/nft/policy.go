package nft

import (
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/netlinkx"
)

// The table `inet terway-policy` exists while network policies are enforced. It drops what pods may not send to their node itself:
// programs of policies cannot, because a packet to an address of the node may be translated, and the one that is not leaves by no device.

// afterIPVS: IPVS has taken the packets for its Services, whose addresses are the node's own (NF_IP_PRI_NAT_SRC - 1).
const afterIPVS = nftables.ChainPriority(110)

func policyRuleset() Ruleset {
	rs := Ruleset{table: &nftables.Table{Family: nftables.TableFamilyINet, Name: claims.PolicyTableName}}
	accept := nftables.ChainPolicyAccept
	input := &nftables.Chain{
		Name: "input", Table: rs.table, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityRef(afterIPVS),
		Type: nftables.ChainTypeFilter, Policy: &accept,
	}
	rs.chains = []*nftables.Chain{input}
	rs.rules = []rule{
		{input, "not from a pod", join(notFromPod(), verdict(expr.VerdictAccept))},
		{input, "translated: not to the address that was judged", join(ctStatus(ctDNAT), verdict(expr.VerdictAccept))},
		{input, "its policies have ended the pod's connection to its node",
			join(metaIs(expr.MetaKeyPRIORITY, claims.PriorityDenied), verdict(expr.VerdictDrop))},
		{input, "reply on a connection that the node has opened", join(ctDirection(ctReply), verdict(expr.VerdictAccept))},
		{input, "its policies do not let the pod send this to its node",
			join(metaIs(expr.MetaKeyPRIORITY, claims.PriorityUnknown), verdict(expr.VerdictDrop))},
	}
	return rs
}

// EnsurePolicy makes the table of policies, and returns what differed, or "".
func EnsurePolicy(c *nftables.Conn) (differs string, err error) {
	rs := policyRuleset()
	input := rs.chains[0]
	have, err := c.ListChain(input.Table, input.Name)
	switch {
	case err != nil && strings.HasSuffix(err.Error(), unix.ENOENT.Error()):
		differs = "it is missing"
	case err != nil:
		return "", fmt.Errorf("read nftables chain %s of table %s: %w", input.Name, TableText(input.Table), err)
	case !sameHook(have, input):
		differs = "its chain has another hook, priority or policy"
	default:
		if differs, err = compareRules(c, rs, input); err != nil || differs == "" {
			return "", err
		}
	}
	c.AddTable(rs.table)
	c.DelTable(rs.table)
	c.AddTable(rs.table)
	c.AddChain(input)
	for _, r := range rs.rules {
		rule, err := r.nftRule()
		if err != nil {
			return "", err
		}
		c.AddRule(rule)
	}
	if err := c.Flush(); err != nil {
		return "", fmt.Errorf("write table %s: %w", TableText(rs.table), err)
	}
	return differs, nil
}

// DeletePolicy removes the table, and reports whether it was there.
func DeletePolicy(c *nftables.Conn) (was bool, err error) {
	table := policyRuleset().table
	c.DelTable(table)
	switch err := c.Flush(); {
	case netlinkx.Gone(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("delete table %s: %w", TableText(table), err)
	}
	return true, nil
}
