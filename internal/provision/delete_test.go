package provision_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/provision"
	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/faults"
	"terway.dev/terway/internal/vpcsim/state"
)

func applied(t *testing.T, change ...func(*vpcsim.Options)) (*simulator, *provision.Network) {
	t.Helper()
	s := start(t, change...)
	n, _, err := s.provisioner(t).Apply(t.Context(), full())
	if err != nil {
		t.Fatal(err)
	}
	return s, n
}

func TestDeleteLeavesNothing(t *testing.T) {
	s, _ := applied(t, func(o *vpcsim.Options) { o.Timing.VSwitch = 5 * time.Millisecond })
	preview, err := s.provisioner(t).PreviewDelete(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	done, err := s.provisioner(t).Delete(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	same(t, "after delete", s.inventory(t), []string{})
	if !slices.Equal(preview, done) {
		t.Errorf("the preview is %q, deleted was %q", preview, done)
	}
	if done, err := s.provisioner(t).Delete(t.Context(), "shop"); err != nil || len(done) > 0 {
		t.Errorf("deleting nothing: %q, %v", done, err)
	}
}

func TestDeleteIsFinishedByTheNextRun(t *testing.T) {
	for _, late := range []bool{false, true} {
		for k := 0; ; k++ {
			s, _ := applied(t)
			_, err := s.provisioner(t).Delete(s.wire.cutAfter(t, k, late), "shop")
			if s.wire.mend() <= k {
				if err != nil || k < 10 {
					t.Fatalf("delete makes %d calls, %v", k, err)
				}
				break
			}
			if _, err := s.provisioner(t).Delete(t.Context(), "shop"); err != nil {
				t.Errorf("killed after %d calls (late %t), then: %v", k, late, err)
			}
			same(t, fmt.Sprintf("killed after %d calls (late %t)", k, late), s.inventory(t), []string{})
			if t.Failed() {
				return
			}
		}
	}
}

func TestDeleteRetries(t *testing.T) {
	for _, code := range []string{"DependencyViolation", "DependencyViolation.NatGateway", "DependencyViolation.Whatever", "IncorrectVSwitchStatus", "TaskConflict", "OperationFailed.DistibuteLock"} {
		s, _ := applied(t)
		for _, action := range []string{"DeleteVSwitch", "DeleteSecurityGroup", "DeleteVpc"} {
			if err := s.AddFaults(faults.Rule{Action: action, Count: 12, Error: &faults.Error{Code: code}}); err != nil {
				t.Fatal(err)
			}
		}
		p := s.provisioner(t)
		said := map[string]int{}
		p.Say = func(line string) {
			if _, state, ok := strings.Cut(line, "): "); ok {
				said[state]++
			}
		}
		if _, err := p.Delete(t.Context(), "shop"); err != nil {
			t.Errorf("%s: %v", code, err)
		}
		same(t, code, s.inventory(t), []string{})
		// Twelve answers in a row are one state, which is reported once, and again after ten
		// seconds.
		n := 0
		for state := range said {
			if strings.Contains(state, "DeleteVpc: "+code) {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%s: the wait for the VPC was reported as %d states, want 1: %v", code, n, said)
		}
	}
}

// listening is a cloud that records the last answer to a deletion of a vSwitch.
type listening struct {
	provision.Cloud
	last *cloud.Error
}

func (l *listening) DeleteVSwitch(ctx context.Context, id string) error {
	err := l.Cloud.DeleteVSwitch(ctx, id)
	errors.As(err, &l.last)
	return err
}

// TestDeleteGivesUp: the error has the last answer with its request id, which the cloud's support
// asks for.
func TestDeleteGivesUp(t *testing.T) {
	s, _ := applied(t)
	if err := s.AddFaults(faults.Rule{Action: "DeleteVSwitch", Count: 1000, Error: &faults.Error{Code: "DependencyViolation"}}); err != nil {
		t.Fatal(err)
	}
	p := s.provisioner(t)
	l := &listening{Cloud: p.Cloud}
	p.Cloud, p.Patience = l, 30*time.Second
	_, err := p.Delete(t.Context(), "shop")
	if l.last == nil || l.last.RequestID == "" {
		t.Fatalf("the last answer is %v, want one with a request's id", l.last)
	}
	if want := "gave up after 30s: " + l.last.Error(); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q in it", err, want)
	}
}

func TestDeleteRefusesWhatIsInUse(t *testing.T) {
	s, n := applied(t)
	var eni, instance, vswitch, group string
	s.write(t, func(a state.API) (err error) {
		group, err = a.CreateSecurityGroup(state.CreateSecurityGroupRequest{VpcId: n.VPC.ID, SecurityGroupName: "db"})
		return err
	})
	s.write(t, func(a state.API) (err error) {
		vswitch, err = a.CreateVSwitch(state.CreateVSwitchRequest{VpcId: n.VPC.ID, ZoneId: "cn-hangzhou-i", CidrBlock: "192.168.200.0/24", VSwitchName: "db"})
		return err
	})
	s.write(t, func(a state.API) error {
		one := 1
		ids, err := a.RunInstances(state.RunInstancesRequest{Amount: &one, InstanceType: "ecs.g6.large", VSwitchId: n.VSwitches[1].ID, SecurityGroupId: n.Groups[0].ID, ImageId: "none"})
		if err != nil {
			return err
		}
		instance = ids[0]
		made, err := a.CreateNetworkInterface(state.CreateNetworkInterfaceRequest{VSwitchId: n.VSwitches[1].ID, SecurityGroupId: n.Groups[0].ID,
			Tag: []state.Tag{{Key: "terway.dev/cluster", Value: "prod"}}})
		if err == nil {
			eni = made.NetworkInterfaceId
		}
		return err
	})
	before := s.inventory(t)
	_, err := s.provisioner(t).Delete(t.Context(), "shop")
	var use *provision.InUse
	if !errors.As(err, &use) {
		t.Fatalf("%v: want what is in use", err)
	}
	for _, w := range []string{eni, "Terway cluster prod", "instance " + instance, "primary ENI", vswitch, group} {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q is not in:\n%v", w, err)
		}
	}
	if !slices.Equal(before, s.inventory(t)) {
		t.Error("something was deleted")
	}
}

// An ENI that was deleted a moment ago does not make Delete fail.
func TestDeleteWaitsForWhatIsBeingDeleted(t *testing.T) {
	s, n := applied(t, func(o *vpcsim.Options) { o.Timing.DeleteENI = 20 * time.Millisecond })
	var eni string
	s.write(t, func(a state.API) error {
		made, err := a.CreateNetworkInterface(state.CreateNetworkInterfaceRequest{VSwitchId: n.VSwitches[1].ID, SecurityGroupId: n.Groups[0].ID})
		if err == nil {
			eni = made.NetworkInterfaceId
		}
		return err
	})
	s.write(t, func(a state.API) error {
		return a.DeleteNetworkInterface(state.DeleteNetworkInterfaceRequest{NetworkInterfaceId: eni})
	})
	if _, err := s.provisioner(t).Delete(t.Context(), "shop"); err != nil {
		t.Error(err)
	}
	same(t, "afterwards", s.inventory(t), []string{})
}

// unfiltered is a cloud that lists every VPC, whatever tag is requested.
type unfiltered struct{ provision.Cloud }

func (c unfiltered) ListVPCs(ctx context.Context, f cloud.VPCFilter) ([]cloud.VPC, error) {
	f.Tags = nil
	return c.Cloud.ListVPCs(ctx, f)
}

// Resources without a tag do not belong to a plan without a name.
func TestAPlanWithoutANameOwnsNothing(t *testing.T) {
	s := start(t)
	s.write(t, func(a state.API) error {
		_, err := a.CreateVpc(state.CreateVpcRequest{CidrBlock: "192.168.0.0/16", VpcName: "somebody's"})
		return err
	})
	p := s.provisioner(t)
	p.Cloud = unfiltered{p.Cloud}
	for _, name := range []string{"", "shop"} {
		if done, err := p.Delete(t.Context(), name); err != nil || len(done) > 0 {
			t.Errorf("plan %q: deleted %q, %v", name, done, err)
		}
	}
	if n := len(s.View().VPCs); n != 1 {
		t.Errorf("%d VPCs are left, want somebody's", n)
	}
}
