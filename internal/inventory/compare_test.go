package inventory

import (
	"reflect"
	"slices"
	"testing"

	"terway.dev/terway/api/v1alpha1"
)

// agreeing returns two nodes with an ENI and a pod each, about which all places say the same.
func agreeing() *Records {
	node := func(name, eni, primary, address, pod string) v1alpha1.NodeNetwork {
		nn := v1alpha1.NodeNetwork{}
		nn.Name = name
		nn.Spec.InstanceID, nn.Spec.Zone = "i-"+name, "cn-hangzhou-i"
		nn.Spec.ENIs = []v1alpha1.ENI{{Token: "t-" + eni, ID: eni, Phase: v1alpha1.ENIReady, VSwitchID: "vsw-1", PrimaryAddress: primary,
			Addresses: []v1alpha1.Address{{Address: primary}, {Address: address}}}}
		nn.Status.Used = []v1alpha1.UsedAddress{{Address: address, Pod: pod}}
		return nn
	}
	eni := func(id, node string, addresses ...string) CloudENI {
		return CloudENI{ID: id, Status: "InUse", Instance: "i-" + node, VSwitch: "vsw-1", Node: node, Token: "t-" + id, Primary: addresses[0], Addresses: addresses}
	}
	return &Records{
		Networks: []v1alpha1.NodeNetwork{node("n1", "eni-1", "10.0.0.1", "10.0.0.2", "shop/web"), node("n2", "eni-2", "10.0.0.3", "10.0.0.4", "shop/db")},
		Pods: []Pod{
			{Namespace: "shop", Name: "web", Node: "n1", Address: "10.0.0.2", Phase: "Running"},
			{Namespace: "shop", Name: "db", Node: "n2", Address: "10.0.0.4", Phase: "Running"},
			{Namespace: "shop", Name: "starts", Node: "n2", Phase: "Pending"},
			{Namespace: "shop", Name: "done", Node: "n2", Address: "10.0.0.4", Phase: "Succeeded"},
			{Namespace: "kube-system", Name: "proxy", Node: "n1", Address: "10.1.0.1", Phase: "Running", HostNetwork: true},
			{Namespace: "shop", Name: "elsewhere", Node: "virtual", Address: "10.9.0.1", Phase: "Running"},
		},
		Cloud: true,
		ENIs:  []CloudENI{eni("eni-1", "n1", "10.0.0.1", "10.0.0.2"), eni("eni-2", "n2", "10.0.0.3", "10.0.0.4")},
	}
}

// Each difference is found, with its kind, and nothing beside it.
func TestCompare(t *testing.T) {
	for name, c := range map[string]struct {
		change func(r *Records)
		want   []string
	}{
		"all agree": {func(*Records) {}, nil},

		"an ENI that no node has": {func(r *Records) { r.Networks = r.Networks[:1]; r.Pods = r.Pods[:1] },
			[]string{"Leak: eni-2 (InUse at i-n2, vSwitch vsw-1) has the tags of node n2, whose NodeNetwork does not have it"}},
		"the same, but the cloud was not asked": {func(r *Records) { r.Networks, r.Pods, r.Cloud = r.Networks[:1], r.Pods[:1], false }, nil},
		"an ENI whose creation was not answered": {func(r *Records) {
			n := &r.Networks[1]
			n.Spec.ENIs[0] = v1alpha1.ENI{Token: "t-eni-2", Phase: v1alpha1.ENICreating}
			n.Status.Used, r.Pods = nil, r.Pods[:1]
		}, nil},
		"an ENI that was just deleted": {func(r *Records) {
			n := &r.Networks[1]
			n.Spec.ENIs, n.Status.Used, r.Pods = nil, nil, r.Pods[:1]
			n.Spec.TakenAway = []v1alpha1.TakenAway{{ENI: "eni-2"}}
		}, nil},
		"an address that its node does not know": {func(r *Records) { r.ENIs[0].Addresses = append(r.ENIs[0].Addresses, "10.0.0.9") },
			[]string{"Leak: address 10.0.0.9 is on eni-1 in the cloud, and not in the NodeNetwork of node n1"}},
		"an address that was just unassigned": {func(r *Records) {
			r.ENIs[0].Addresses = append(r.ENIs[0].Addresses, "10.0.0.9")
			r.Networks[0].Spec.TakenAway = []v1alpha1.TakenAway{{ENI: "eni-1", Addresses: []string{"10.0.0.9"}}}
		}, nil},
		"a pod that is gone": {func(r *Records) { r.Pods = r.Pods[1:] },
			[]string{"Leak: node n1 keeps address 10.0.0.2 for pod shop/web, which does not exist"}},
		"a pod that has ended": {func(r *Records) { r.Pods[0].Phase = "Failed" },
			[]string{"Leak: node n1 keeps address 10.0.0.2 for pod shop/web, which has ended"}},
		"a pod that has moved": {func(r *Records) { r.Pods[0].Node, r.Pods[0].Address, r.Pods[0].Phase = "n2", "", "Pending" },
			[]string{"Leak: node n1 keeps address 10.0.0.2 for pod shop/web, which is on node n2"}},
		"a pod that was started again": {func(r *Records) {
			r.Networks[0].Status.Used = append(r.Networks[0].Status.Used, v1alpha1.UsedAddress{Address: "10.0.0.1", Pod: "shop/web"})
		}, []string{"Leak: node n1 keeps address 10.0.0.1 for pod shop/web, which has address 10.0.0.2"}},
		"a pod with IPv6 too": {func(r *Records) {
			r.Networks[0].Spec.ENIs[0].Addresses = append(r.Networks[0].Spec.ENIs[0].Addresses, v1alpha1.Address{Address: "fd00::1"})
			r.Networks[0].Status.Used = append(r.Networks[0].Status.Used, v1alpha1.UsedAddress{Address: "fd00::1", Pod: "shop/web"})
		}, nil},

		"two pods with one address": {func(r *Records) {
			r.Networks[0].Status.Used = append(r.Networks[0].Status.Used, v1alpha1.UsedAddress{Address: "10.0.0.2", Pod: "shop/api"})
			r.Pods = append(r.Pods, Pod{Namespace: "shop", Name: "api", Node: "n1", Address: "10.0.0.2", Phase: "Running"})
		}, []string{"Double: address 10.0.0.2 is that of 2 pods: shop/api, shop/web"}},
		"an ENI of two nodes": {func(r *Records) {
			r.Networks[1].Spec.ENIs = append(r.Networks[1].Spec.ENIs, r.Networks[0].Spec.ENIs[0])
		}, []string{"Double: eni-1 is in the NodeNetworks of n1 and n2", "Missing: eni-1 of node n2 is not attached to i-n2: the cloud says InUse at i-n1"}},
		"an address of two nodes": {func(r *Records) {
			r.Networks[1].Spec.ENIs[0].Addresses = append(r.Networks[1].Spec.ENIs[0].Addresses, v1alpha1.Address{Address: "10.0.0.2"})
		}, []string{"Double: address 10.0.0.2 is on an ENI of n1 and on one of n2", "Missing: address 10.0.0.2 of node n2 is not on eni-2 in the cloud"}},

		"a pod whose address is gone": {func(r *Records) {
			r.Networks[0].Spec.ENIs[0].Addresses = r.Networks[0].Spec.ENIs[0].Addresses[:1]
			r.ENIs[0].Addresses = r.ENIs[0].Addresses[:1]
		}, []string{"Missing: pod shop/web has address 10.0.0.2, which is on no ENI of node n1: it cannot be reached; delete it, so that it is recreated with another"}},
		"a pod that its agent does not know": {func(r *Records) { r.Networks[0].Status.Used = nil },
			[]string{"Missing: pod shop/web has address 10.0.0.2, which the agent of node n1 has not given to it: another network plugin has, or its journal is lost; delete the pod, so that it is recreated"}},
		"an ENI that does not exist": {func(r *Records) { r.ENIs = r.ENIs[:1] },
			[]string{"Missing: eni-2 of node n2 does not exist in the cloud"}},
		"an ENI that was detached": {func(r *Records) { r.ENIs[1].Instance, r.ENIs[1].Status = "", "Available" },
			[]string{"Missing: eni-2 of node n2 is not attached to i-n2: the cloud says Available"}},
		"an address that the cloud has not": {func(r *Records) { r.ENIs[1].Addresses = r.ENIs[1].Addresses[:1] },
			[]string{"Missing: address 10.0.0.4 of node n2 is not on eni-2 in the cloud"}},
		"an address on its way back": {func(r *Records) {
			r.ENIs[1].Addresses = r.ENIs[1].Addresses[:1]
			r.Networks[1].Spec.ENIs[0].Addresses[1].Unassigning = true
			r.Networks[1].Status.Used, r.Pods = nil, r.Pods[:1]
		}, nil},
		"a device that is missing": {func(r *Records) { r.Networks[0].Status.MissingENIs = []string{"eni-1"} },
			[]string{"Missing: node n1 has no device of eni-1, which is attached to it according to the controller"}},
	} {
		r := agreeing()
		c.change(r)
		var got []string
		for _, f := range r.Compare() {
			got = append(got, f.Kind+": "+f.Message)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s:\n%q\nwant\n%q", name, got, c.want)
		}
	}
}

// What is found only once was a change that was under way.
func TestLasting(t *testing.T) {
	eni := func(status string) Records {
		return Records{Cloud: true, ENIs: []CloudENI{{ID: "eni-1", Status: status, Node: "n1"}}}
	}
	creating, available := eni("Creating"), eni("Available")
	earlier, later := creating.Compare(), available.Compare()
	// The same ENI, although the cloud says something else of it.
	if got := Lasting(earlier, later); len(got) != 1 || !reflect.DeepEqual(got, later) {
		t.Errorf("%v, want %v", got, later)
	}
	other := Records{Cloud: true, ENIs: []CloudENI{{ID: "eni-2", Status: "Available", Node: "n1"}}}
	for _, of := range [][]Finding{other.Compare(), {{Kind: Double, ENI: "eni-1", Nodes: []string{"n1"}}}, {{Kind: Leak, ENI: "eni-1", Address: "10.0.0.1", Nodes: []string{"n1"}}}} {
		if got := Lasting(earlier, of); len(got) != 0 {
			t.Errorf("%v lasts, and was not there before", got)
		}
	}
}

func TestAddresses(t *testing.T) {
	r := agreeing()
	r.Networks[1].Spec.ENIs[0].Exclusive = true
	r.Networks[1].Status.Used = append(r.Networks[1].Status.Used, v1alpha1.UsedAddress{Address: "10.0.0.9", Pod: "shop/lost"})
	want := []PodAddress{
		{Pod: "shop/db", Address: "10.0.0.4", ENI: "eni-2", VSwitch: "vsw-1", Exclusive: true, Node: "n2", Instance: "i-n2", Zone: "cn-hangzhou-i"},
		{Pod: "shop/lost", Address: "10.0.0.9", Node: "n2", Instance: "i-n2", Zone: "cn-hangzhou-i"},
		{Pod: "shop/web", Address: "10.0.0.2", ENI: "eni-1", VSwitch: "vsw-1", Node: "n1", Instance: "i-n1", Zone: "cn-hangzhou-i"},
	}
	if got := Addresses(r.Networks); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
}
