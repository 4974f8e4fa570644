// Package provision makes the cloud agree with a network plan: a VPC, its ranges,
// vSwitches and security group.
//
// What belongs to a plan carries its name in a tag, put on in the call that makes
// the resource; nothing without the tag is ever changed or deleted. There is no
// other record: each run reads what the cloud holds and does what is missing, so it
// may be killed between any two calls.
//
// It must never guess: what exists but differs from the plan is an error that names
// both.
package provision

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"k8s.io/utils/clock"

	"terway.dev/terway/internal/cloud"
)

// Cloud is what this package asks of a VPC; alibaba.Client implements it. Creating
// the same twice with one token gives the same resource; deleting what is gone is no
// error; lists are complete.
type Cloud interface {
	// ListZones are the ids of the region's zones.
	ListZones(ctx context.Context) ([]string, error)

	ListVPCs(ctx context.Context, f cloud.VPCFilter) ([]cloud.VPC, error)
	CreateVPC(ctx context.Context, want cloud.CreateVPCRequest) (id string, err error)
	// AddCIDR gives a VPC a secondary range.
	AddCIDR(ctx context.Context, vpcID string, cidr netip.Prefix) error
	DeleteVPC(ctx context.Context, id string) error

	ListVSwitches(ctx context.Context, vpcID string) ([]cloud.VSwitch, error)
	CreateVSwitch(ctx context.Context, want cloud.CreateVSwitchRequest) (id string, err error)
	DeleteVSwitch(ctx context.Context, id string) error

	ListSecurityGroups(ctx context.Context, vpcID string) ([]cloud.SecurityGroup, error)
	CreateSecurityGroup(ctx context.Context, want cloud.CreateSecurityGroupRequest) (id string, err error)
	// AllowedFrom are the ranges from which a group lets in everything; AllowFrom adds one.
	AllowedFrom(ctx context.Context, groupID string) ([]netip.Prefix, error)
	AllowFrom(ctx context.Context, groupID string, from netip.Prefix) error
	DeleteSecurityGroup(ctx context.Context, id string) error

	// DescribeENIs says what uses a VPC.
	DescribeENIs(ctx context.Context, f cloud.ENIFilter) ([]cloud.ENI, error)
}

// The tags of what a plan made.
const (
	// TagPlan holds the plan's name.
	TagPlan = "terway.dev/plan"
	// TagRole is on vSwitches: RoleNode or RolePod.
	TagRole = "terway.dev/role"
	// TagCreator is on all that Terway makes in a cloud.
	TagCreator   = "creator"
	valueCreator = "terway"

	RoleNode = "node"
	RolePod  = "pod"
)

// Provisioner works on one region.
type Provisioner struct {
	Cloud  Cloud
	Region string
	Clock  clock.Clock
	// Say is told what is being done, a line each.
	Say func(line string)
	// Poll is how often a state is looked at, Patience how long one may last,
	// Settle after how long a resource that the cloud's lists do not show is believed
	// to be gone: lists may lag behind.
	Poll, Patience, Settle time.Duration
}

// Defaults of Provisioner.
const (
	DefaultPoll     = time.Second
	DefaultPatience = 5 * time.Minute
	DefaultSettle   = 20 * time.Second
)

func (p *Provisioner) say(format string, args ...any) { p.Say(fmt.Sprintf(format, args...)) }

// wait looks until f says done. why is what it waits for, for the progress lines.
func (p *Provisioner) wait(ctx context.Context, f func() (done bool, why, err error)) error {
	const quiet = 10 * time.Second
	began := p.Clock.Now()
	said, saidAt := "", began
	for {
		done, why, err := f()
		if err != nil || done {
			return err
		}
		now := p.Clock.Now()
		waited := now.Sub(began)
		if waited > p.Patience {
			return fmt.Errorf("gave up after %s: %v; run the command again to go on", p.Patience, why)
		}
		state := why.Error()
		if answer := (*cloud.Error)(nil); errors.As(why, &answer) {
			state = answer.Brief() // with the request's id it would be another line each time
		}
		if state != said || now.Sub(saidAt) >= quiet {
			p.say("waiting (%.0fs): %s", waited.Seconds(), state)
			said, saidAt = state, now
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("stopped while waiting: %v: %w", why, ctx.Err())
		case <-p.Clock.After(p.Poll):
		}
	}
}

// insist repeats f while the cloud says that something else is in the way.
func (p *Provisioner) insist(ctx context.Context, f func() error) error {
	return p.wait(ctx, func() (done bool, busy, err error) {
		err = f()
		var answer *cloud.Error
		if errors.As(err, &answer) && answer.Class == cloud.Conflict {
			return false, answer, nil
		}
		return err == nil, nil, err
	})
}
