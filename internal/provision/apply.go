package provision

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/plan"
)

// Apply makes the cloud agree with a plan in which plan.Check finds no error. The second result
// is what was done; it is empty if nothing was missing.
func (p *Provisioner) Apply(ctx context.Context, want *plan.Plan) (*Network, []Step, error) {
	done := []Step{}
	// Lists lag behind: what was created may be missing in the next list. Creating it again with
	// the same token does no harm.
	const rounds = 5
	for range rounds {
		w, err := p.settle(ctx, want.Name)
		if err != nil {
			return nil, done, err
		}
		changes, err := diff(want, w)
		if err != nil {
			return nil, done, err
		}
		if len(changes) == 0 {
			return network(w, want.Name, p.Region), done, nil
		}
		if len(done) == 0 { // nothing is created for a plan that cannot be completed
			if err := p.zonesExist(ctx, changes); err != nil {
				return nil, nil, err
			}
		}
		at := target{}
		if w.vpc != nil {
			at.vpc = w.vpc.ID
		}
		if g := w.ownGroups(want.Name); len(g) > 0 {
			at.group = g[0].ID
		}
		for _, c := range changes {
			step := c.step(want)
			p.say("%s", step)
			if err := p.do(ctx, want, c, &at); err != nil {
				return nil, done, fmt.Errorf("%s: %w", step, err)
			}
			done = append(done, step)
		}
	}
	return nil, done, fmt.Errorf("the cloud does not list everything that was created for plan %q; run the command again", want.Name)
}

// Preview returns what Apply would do.
func (p *Provisioner) Preview(ctx context.Context, want *plan.Plan) ([]Step, error) {
	w, err := p.observe(ctx, want.Name)
	if err != nil {
		return nil, err
	}
	return p.preview(ctx, want, w)
}

func (p *Provisioner) preview(ctx context.Context, want *plan.Plan, w *world) ([]Step, error) {
	changes, err := diff(want, w)
	if err == nil {
		err = p.zonesExist(ctx, changes)
	}
	steps := []Step{}
	for _, c := range changes {
		steps = append(steps, c.step(want))
	}
	return steps, err
}

// zonesExist returns an error that names the zones of new vSwitches that the region does not have.
func (p *Provisioner) zonesExist(ctx context.Context, changes []change) error {
	var zones []string
	for _, c := range changes {
		if c.vsw != nil && !slices.Contains(zones, c.vsw.zone) {
			zones = append(zones, c.vsw.zone)
		}
	}
	if len(zones) == 0 {
		return nil
	}
	have, err := p.Cloud.ListZones(ctx)
	if err != nil {
		return fmt.Errorf("list the zones of %s: %w", p.Region, err)
	}
	var errs []error
	for _, z := range zones {
		if !slices.Contains(have, z) {
			errs = append(errs, fmt.Errorf("zone %s: region %s has no such zone for this account; correct the plan: it has %s", z, p.Region, strings.Join(have, ", ")))
		}
	}
	return errors.Join(errs...)
}

// target has the ids to which the next changes refer.
type target struct{ vpc, group string }

// do makes one change and waits until it is in effect.
func (p *Provisioner) do(ctx context.Context, want *plan.Plan, c change, at *target) (err error) {
	switch {
	case c.vpc:
		at.vpc, err = p.create(ctx, []string{"vpc", want.Name, want.VPC.CIDR.String()}, func(token string) (string, error) {
			return p.Cloud.CreateVPC(ctx, cloud.CreateVPCRequest{Token: token, Name: want.Name, CIDR: want.VPC.CIDR, Tags: tags(want.Name)})
		}, func(id string) (string, error) {
			all, err := p.Cloud.ListVPCs(ctx, cloud.VPCFilter{ID: id})
			for _, v := range all {
				if v.ID == id {
					return v.Status, err
				}
			}
			return "", err
		})
	case c.cidr.IsValid():
		err = p.retryWhileBusy(ctx, func() error { return p.Cloud.AddCIDR(ctx, at.vpc, c.cidr) })
	case c.vsw != nil:
		labels := maps.Clone(tags(want.Name))
		labels[claims.TagRole] = c.vsw.role
		_, err = p.create(ctx, []string{"vswitch", at.vpc, c.vsw.Name, c.vsw.CIDR.String(), c.vsw.zone, c.vsw.role}, func(token string) (string, error) {
			return p.Cloud.CreateVSwitch(ctx, cloud.CreateVSwitchRequest{Token: token, VPCID: at.vpc, Zone: c.vsw.zone, Name: c.vsw.Name, CIDR: c.vsw.CIDR, Tags: labels})
		}, func(id string) (string, error) {
			all, err := p.Cloud.ListVSwitches(ctx, at.vpc)
			if i := slices.IndexFunc(all, func(v cloud.VSwitch) bool { return v.ID == id }); i >= 0 {
				return all[i].Status, err
			}
			return "", err
		})
	case c.group:
		at.group, err = p.create(ctx, []string{"group", at.vpc, want.Name, want.SecurityGroup}, func(token string) (string, error) {
			return p.Cloud.CreateSecurityGroup(ctx, cloud.CreateSecurityGroupRequest{Token: token, VPCID: at.vpc, Name: want.Name, Type: want.SecurityGroup, Tags: tags(want.Name)})
		}, func(id string) (string, error) {
			all, err := p.Cloud.ListSecurityGroups(ctx, at.vpc)
			if slices.ContainsFunc(all, func(g cloud.SecurityGroup) bool { return g.ID == id }) {
				return cloud.StatusAvailable, err
			}
			return "", err
		})
	default:
		err = p.retryWhileBusy(ctx, func() error { return p.Cloud.AllowFrom(ctx, at.group, c.allow) })
	}
	return err
}

// create creates a resource and waits until it is Available; state returns its status, "" if the
// cloud does not list it.
//
// The token is derived from the resource, so another run, after a lost answer or a kill, gets the
// same resource. But the cloud keeps the token of a deleted resource and answers with its id: then
// the next token is used. Lists may lag behind, so a resource counts as deleted only after a while.
func (p *Provisioner) create(ctx context.Context, what []string, make func(token string) (string, error), state func(id string) (string, error)) (string, error) {
	const generations = 10
	for n := range generations {
		var id string
		err := p.retryWhileBusy(ctx, func() (err error) {
			id, err = make(p.token(what, n))
			return err
		})
		if cloud.CodeOf(err) == codeTokenSpent {
			continue
		}
		if err != nil {
			return "", err
		}
		began := p.Clock.Now()
		gone := errors.New("gone")
		seen := false
		err = p.wait(ctx, func() (bool, error, error) {
			asked := p.Clock.Now() // the time of the call: the answer may take long
			s, err := state(id)
			switch {
			case err != nil:
				return false, nil, err
			case s == "" && !seen && asked.Sub(began) > p.Settle:
				return false, nil, gone
			case s == "":
				return false, fmt.Errorf("%s is not listed yet", id), nil
			}
			seen = true
			return s == cloud.StatusAvailable, fmt.Errorf("%s is %s", id, s), nil
		})
		if errors.Is(err, gone) {
			p.say("%s was deleted before; creating a new one", id)
			continue
		}
		return id, err
	}
	return "", fmt.Errorf("%s was created and deleted too often today", what[0])
}

// codeTokenSpent is the cloud's error when the first call with a token has failed.
const codeTokenSpent = "IdempotentFailed"

// token returns the client token of the nth attempt to create a resource (at most 64 characters).
func (p *Provisioner) token(what []string, n int) string {
	sum := sha256.Sum256([]byte(strings.Join(append([]string{p.Region, fmt.Sprint(n)}, what...), "\x00")))
	return "terway-" + hex.EncodeToString(sum[:20])
}
