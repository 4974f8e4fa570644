// Package installtest has an account for tests of what is done before an installation: a VPC in the simulated cloud with a vSwitch, a
// security group and an instance.
package installtest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/state"
)

// Shop is the account. Its ids are those of its only resources.
type Shop struct {
	*vpcsim.Server
	VSwitch, Group, Instance, Address string
}

// New makes an account, which ends with the test.
func New(t *testing.T) *Shop {
	t.Helper()
	server, err := vpcsim.New(vpcsim.Options{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &Shop{Server: server}
	vpc := ""
	for _, f := range []func(state.API) error{
		func(a state.API) error {
			made, err := a.CreateVpc(state.CreateVpcRequest{CidrBlock: "192.168.0.0/16"})
			if err == nil {
				vpc = made.VpcId
			}
			return err
		},
		func(a state.API) (err error) {
			s.VSwitch, err = a.CreateVSwitch(state.CreateVSwitchRequest{VpcId: vpc, ZoneId: "cn-hangzhou-i", CidrBlock: "192.168.0.0/24"})
			return err
		},
		func(a state.API) (err error) {
			s.Group, err = a.CreateSecurityGroup(state.CreateSecurityGroupRequest{VpcId: vpc})
			return err
		},
		func(a state.API) error {
			ids, err := a.RunInstances(state.RunInstancesRequest{InstanceType: "ecs.g6.large", VSwitchId: s.VSwitch, SecurityGroupId: s.Group})
			if err == nil {
				s.Instance = ids[0]
			}
			return err
		},
	} {
		until(t, func() error {
			err := server.Write(t.Context(), f)
			var e *state.Error
			if err != nil && (!errors.As(err, &e) || !strings.Contains(e.Code, "Status")) { // what was made before may still be busy
				t.Fatal(err)
			}
			return err
		})
	}
	until(t, func() error {
		i := server.View().Instances[0]
		s.Address = i.PrimaryIpAddress.String()
		if i.Status != "Running" {
			return errors.New(string(i.Status))
		}
		return nil
	})
	return s
}

// until repeats until there is no error.
func until(t *testing.T, f func() error) {
	t.Helper()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal(err)
		}
	}
}

// Node is the instance's node, as a kubelet registers it that has no network yet.
func (s *Shop) Node() *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}, Spec: corev1.NodeSpec{ProviderID: "cn-hangzhou." + s.Instance}}
	n.Status.NodeInfo.KernelVersion = "5.10.134-16.1.al8.x86_64"
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: s.Address}}
	n.Status.Capacity = corev1.ResourceList{corev1.ResourcePods: *resource.NewQuantity(6, resource.DecimalSI)}
	return n
}

// ENIConfig is the chart's value eniConfig for the account.
func (s *Shop) ENIConfig() string {
	return fmt.Sprintf("{cluster_id: c, region: cn-hangzhou, service_cidr: 172.21.0.0/20, security_groups: [%s], vswitches: {cn-hangzhou-i: [%s]}}", s.Group, s.VSwitch)
}
