// Package cloudtest has what the tests of controllers share: the simulated cloud behind the real
// client, a fake clock, recorded events, and a fuse that kills a controller in the middle of its
// work. It knows no controller. Only tests import it.
package cloudtest

import (
	"context"
	"log/slog"
	"time"

	"terway.dev/terway/internal/cloud/alibaba"
	"terway.dev/terway/internal/testutil/testclock"
	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/faults"
	"terway.dev/terway/internal/vpcsim/state"
)

// TB is what a test and a property have in common.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
	Cleanup(func())
}

// Zone is the zone of all objects.
const Zone = "cn-hangzhou-i"

// Cloud is the simulator, and the client with which a controller calls it.
type Cloud struct {
	TB
	Clock *Clock
	Sim   *vpcsim.Server
	API   *alibaba.Client
}

// Start starts the simulator, which ends with the test. It uses the clock's time.
func Start(t TB, o vpcsim.Options) *Cloud {
	t.Helper()
	c := &Cloud{TB: t, Clock: &Clock{testclock.New(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))}}
	o.Seed, o.Now = 1, c.Clock.Now
	var err error
	c.Sim, err = vpcsim.New(o)
	c.Must(err)
	t.Cleanup(func() {
		if err := c.Sim.Close(); err != nil {
			t.Errorf("close the simulator: %v", err)
		}
	})
	account := c.Sim.Account()
	c.API, err = alibaba.New(alibaba.Config{
		Region: "cn-hangzhou", ECSEndpoint: c.Sim.Endpoint(), VPCEndpoint: c.Sim.Endpoint(), SLBEndpoint: c.Sim.Endpoint(), NLBEndpoint: c.Sim.Endpoint(),
		Credentials: alibaba.StaticCredentials(account.AccessKeyID, account.AccessKeySecret),
		Clock:       c.Clock, Attempts: 2, Random: func() float64 { return 0.5 }, Log: slog.New(slog.DiscardHandler),
	})
	c.Must(err)
	return c
}

// Network makes a VPC with vSwitches and a security group.
func (c *Cloud) Network(cidr string, vswitchCIDRs ...string) (vpc string, vswitches []string, group string) {
	c.Helper()
	c.Write(func(s state.API) error {
		v, err := s.CreateVpc(state.CreateVpcRequest{CidrBlock: cidr})
		if err == nil {
			vpc = v.VpcId
		}
		return err
	})
	for _, cidr := range vswitchCIDRs {
		c.Write(func(s state.API) error {
			id, err := s.CreateVSwitch(state.CreateVSwitchRequest{VpcId: vpc, ZoneId: Zone, CidrBlock: cidr})
			vswitches = append(vswitches, id)
			return err
		})
	}
	c.Write(func(s state.API) (err error) {
		group, err = s.CreateSecurityGroup(state.CreateSecurityGroupRequest{VpcId: vpc})
		return err
	})
	return vpc, vswitches, group
}

// Write changes what the cloud holds, without its API.
func (c *Cloud) Write(f func(state.API) error) {
	c.Helper()
	c.Must(c.Sim.Write(context.Background(), f))
}

// Must fails the test on an error.
func (c *Cloud) Must(err error) {
	c.Helper()
	if err != nil {
		c.Fatalf("%v", err)
	}
}

// Fault sets faults.
func (c *Cloud) Fault(rules ...faults.Rule) {
	c.Helper()
	c.Must(c.Sim.AddFaults(rules...))
}

// Calls counts the calls of an action so far.
func (c *Cloud) Calls(action string) int { return int(c.Sim.Stats().Snapshot()[action].Calls) }

// Clock is the fake clock of a test.
type Clock struct{ testclock.Clock }

// Pass advances the clock.
func (c *Clock) Pass(d time.Duration) { c.Step(d) }
