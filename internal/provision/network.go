package provision

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"go4.org/netipx"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/plan"
)

// Network is what exists of a plan.
type Network struct {
	// Plan is empty for a VPC without a plan.
	Plan      string    `json:"plan,omitempty"`
	Region    string    `json:"region"`
	VPC       VPC       `json:"vpc"`
	VSwitches []VSwitch `json:"vswitches"`
	Groups    []Group   `json:"securityGroups"`
	// Free are the parts of the VPC's ranges that are in no vSwitch.
	Free []netip.Prefix `json:"free"`
}

// VPC is a VPC that exists.
type VPC struct {
	ID    string         `json:"id"`
	Name  string         `json:"name"`
	CIDRs []netip.Prefix `json:"cidrs"`
}

// VSwitch is a vSwitch that exists.
type VSwitch struct {
	ID   string       `json:"id"`
	Name string       `json:"name"`
	Zone string       `json:"zone"`
	CIDR netip.Prefix `json:"cidr"`
	// Role is RoleNode, RolePod or empty; Own is set if it belongs to the plan.
	Role string `json:"role,omitempty"`
	Own  bool   `json:"own"`
	// Addresses is how many the range has for ENIs, Free how many of them are free.
	Addresses int `json:"addresses"`
	Free      int `json:"free"`
}

// Group is a security group that exists.
type Group struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	Type string `json:"type"`
	Own  bool   `json:"own"`
	// Free is how many more private addresses it can hold.
	Free int `json:"free"`
}

func network(w *world, name, region string) *Network {
	n := &Network{Plan: name, Region: region, VPC: VPC{ID: w.vpc.ID, Name: w.vpc.Name, CIDRs: w.vpc.CIDRs}}
	var free netipx.IPSetBuilder
	for _, c := range w.vpc.CIDRs {
		free.AddPrefix(c)
	}
	for _, v := range w.vswitches {
		n.VSwitches = append(n.VSwitches, VSwitch{ID: v.ID, Name: v.Name, Zone: v.Zone, CIDR: v.CIDR, Role: v.Tags[claims.TagRole],
			Own: owned(v.Tags, name), Addresses: plan.Usable(v.CIDR), Free: v.Available})
		free.RemovePrefix(v.CIDR)
	}
	for _, g := range w.groups {
		n.Groups = append(n.Groups, Group{ID: g.ID, Name: g.Name, Type: g.Type, Own: owned(g.Tags, name), Free: g.Free})
	}
	if set, err := free.IPSet(); err == nil { // all prefixes are valid
		n.Free = set.Prefixes()
	}
	return n
}

// Show returns what exists of a plan; an error if nothing does.
func (p *Provisioner) Show(ctx context.Context, name string) (*Network, error) {
	w, err := p.observe(ctx, name)
	if err != nil {
		return nil, err
	}
	if w.vpc == nil {
		return nil, fmt.Errorf("no VPC of %s carries the tag %s=%s: \"terwayctl vpc apply\" creates one from a plan", p.Region, claims.TagPlan, name)
	}
	return network(w, name, p.Region), nil
}

// ShowVPC is Show for any VPC.
func (p *Provisioner) ShowVPC(ctx context.Context, id string) (*Network, error) {
	all, err := p.Cloud.ListVPCs(ctx, cloud.VPCFilter{ID: id})
	if err != nil {
		return nil, fmt.Errorf("read VPC %s: %w", id, err)
	}
	for i := range all {
		if all[i].ID != id {
			continue
		}
		name := all[i].Tags[claims.TagPlan]
		w, err := p.look(ctx, &all[i], name)
		if err != nil {
			return nil, err
		}
		return network(w, name, p.Region), nil
	}
	return nil, fmt.Errorf("%s has no VPC %q", p.Region, id)
}

// ENIConfig is the chart's value eniConfig, as far as it follows from the network;
// docs/configuration.md has all keys.
type ENIConfig struct {
	ClusterID      string              `json:"cluster_id,omitempty"`
	Region         string              `json:"region,omitempty"`
	Network        string              `json:"network,omitempty"`
	Mode           string              `json:"mode,omitempty"`
	VSwitches      map[string][]string `json:"vswitches,omitempty"`
	SecurityGroups []string            `json:"security_groups,omitempty"`
	ServiceCIDR    string              `json:"service_cidr,omitempty"`
	PodCIDR        string              `json:"pod_cidr,omitempty"`
}

// ENIConfig returns what the cluster of a plan needs in its configuration.
func (n *Network) ENIConfig(p *plan.Plan) ENIConfig {
	c := ENIConfig{ClusterID: clusterID(p.Name), Region: p.Region, ServiceCIDR: p.ServiceCIDR.String()}
	if p.Network == claims.NetworkFlannel {
		// No ENIs are created, so the configuration has no security groups.
		c.Network, c.PodCIDR = p.Network, p.PodCIDR.String()
		return c
	}
	if p.Mode != claims.ModeShared { // the default
		c.Mode = p.Mode
	}
	for _, g := range n.Groups {
		if g.Own {
			c.SecurityGroups = append(c.SecurityGroups, g.ID)
		}
	}
	c.VSwitches = map[string][]string{}
	for _, z := range p.Zones {
		for _, v := range z.Pods {
			if there := n.ByCIDR(v.CIDR); there != nil {
				c.VSwitches[z.ID] = append(c.VSwitches[z.ID], there.ID)
			}
		}
	}
	return c
}

// clusterID derives a cluster id from a plan's name, which may have characters that the
// configuration's cluster_id may not have.
func clusterID(name string) string {
	id := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.' {
			return r
		}
		return '-'
	}, name)
	const most = 64
	return id[:min(len(id), most)]
}

// ByCIDR returns the vSwitch with a range.
func (n *Network) ByCIDR(c netip.Prefix) *VSwitch {
	for i := range n.VSwitches {
		if n.VSwitches[i].CIDR == c {
			return &n.VSwitches[i]
		}
	}
	return nil
}
