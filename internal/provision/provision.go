// Package provision makes the cloud agree with a network plan: a VPC, its ranges,
// vSwitches and security group.
//
// Resources of a plan have its name in a tag, which is set in the call that creates them; resources
// without the tag are never changed or deleted. There is no other record: each run reads what the
// cloud holds and adds what is missing, so it may be killed between any two calls.
//
// It never guesses: a resource that differs from the plan is an error that names both values.
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

// Cloud is what this package needs of a VPC; alibaba.Client implements it. Creating twice with one
// token returns the same resource; deleting a missing resource is no error; lists are complete.
type Cloud interface {
	// ListZones returns the ids of the region's zones.
	ListZones(ctx context.Context) ([]string, error)

	ListVPCs(ctx context.Context, f cloud.VPCFilter) ([]cloud.VPC, error)
	CreateVPC(ctx context.Context, want cloud.CreateVPCRequest) (id string, err error)
	// AddCIDR adds a secondary range to a VPC.
	AddCIDR(ctx context.Context, vpcID string, cidr netip.Prefix) error
	DeleteVPC(ctx context.Context, id string) error

	ListVSwitches(ctx context.Context, vpcID string) ([]cloud.VSwitch, error)
	CreateVSwitch(ctx context.Context, want cloud.CreateVSwitchRequest) (id string, err error)
	DeleteVSwitch(ctx context.Context, id string) error

	ListSecurityGroups(ctx context.Context, vpcID string) ([]cloud.SecurityGroup, error)
	CreateSecurityGroup(ctx context.Context, want cloud.CreateSecurityGroupRequest) (id string, err error)
	// AllowedFrom returns the ranges from which a group accepts everything; AllowFrom adds one.
	AllowedFrom(ctx context.Context, groupID string) ([]netip.Prefix, error)
	AllowFrom(ctx context.Context, groupID string, from netip.Prefix) error
	DeleteSecurityGroup(ctx context.Context, id string) error

	// DescribeENIs returns the ENIs, which use a VPC.
	DescribeENIs(ctx context.Context, f cloud.ENIFilter) ([]cloud.ENI, error)
}

// Values of claims.TagRole.
const (
	RoleNode = "node"
	RolePod  = "pod"
)

// Provisioner works in one region.
type Provisioner struct {
	Cloud  Cloud
	Region string
	Clock  clock.Clock
	// Say gets a line for each step.
	Say func(line string)
	// Poll is how often a state is checked, Patience how long one may last, Settle after how long a
	// resource that is in no list counts as deleted: lists may lag behind.
	Poll, Patience, Settle time.Duration
}

// Defaults of Provisioner.
const (
	DefaultPoll     = time.Second
	DefaultPatience = 5 * time.Minute
	DefaultSettle   = 20 * time.Second
)

func (p *Provisioner) say(format string, args ...any) { p.Say(fmt.Sprintf(format, args...)) }

// wait polls f until it is done. why is what it waits for, for the progress lines.
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
			return fmt.Errorf("gave up after %s: %v; run the command again to continue", p.Patience, why)
		}
		state := why.Error()
		if answer := (*cloud.Error)(nil); errors.As(why, &answer) {
			state = answer.Brief() // with the request id it would be another line each time
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

// retryWhileBusy repeats f while the cloud refuses it because of something else.
func (p *Provisioner) retryWhileBusy(ctx context.Context, f func() error) error {
	return p.wait(ctx, func() (done bool, busy, err error) {
		err = f()
		var answer *cloud.Error
		if errors.As(err, &answer) && answer.Class == cloud.Conflict {
			return false, answer, nil
		}
		return err == nil, nil, err
	})
}
