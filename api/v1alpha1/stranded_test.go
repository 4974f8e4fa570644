package v1alpha1

import "testing"

func TestStranded(t *testing.T) {
	nn := &NodeNetwork{}
	nn.Spec.ENIs = []ENI{{Addresses: []Address{{Address: "192.168.32.1"}, {Address: "192.168.32.2", Releasing: true, Unassigning: true}, {Address: "192.168.32.3", Releasing: true}}}}
	for _, a := range []string{"192.168.32.1", "192.168.32.2", "192.168.32.3", "192.168.32.4"} {
		nn.Status.Used = append(nn.Status.Used, UsedAddress{Address: a, Pod: "default/p"})
	}
	got := nn.Stranded()
	if len(got) != 2 || got[0].Address != "192.168.32.2" || got[1].Address != "192.168.32.4" {
		t.Errorf("stranded %v, want the one that is gone from its ENI and the one that no ENI has", got)
	}
}
