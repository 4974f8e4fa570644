package v1alpha1

import (
	"encoding/json"
	"testing"
)

// What the previous version stored is read under the current names.
func TestFormerNamesAreRead(t *testing.T) {
	for name, raw := range map[string]string{
		"the former version's": `{"spec": {"ownENIs": 2, "enis": [{"token": "a", "phase": "Ready", "own": true}, {"token": "b", "phase": "Ready"}]}}`,
		"this version's":       `{"spec": {"exclusiveENIs": 2, "enis": [{"token": "a", "phase": "Ready", "exclusive": true}, {"token": "b", "phase": "Ready"}]}}`,
	} {
		var nn NodeNetwork
		if err := json.Unmarshal([]byte(raw), &nn); err != nil {
			t.Fatal(err)
		}
		if s := nn.Spec; s.ExclusiveENIs != 2 || !s.ENIs[0].Exclusive || s.ENIs[1].Exclusive || s.ENIs[1].Token != "b" {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

// An agent of the previous version reads what the current controller stores, and a field that is
// removed is removed under its previous name too.
func TestFormerNamesAreWritten(t *testing.T) {
	var former struct {
		OwnENIs int `json:"ownENIs"`
		ENIs    []struct {
			Own bool `json:"own"`
		} `json:"enis"`
	}
	s := NodeNetworkSpec{ExclusiveENIs: 2, ENIs: []ENI{{Token: "a", Exclusive: true}, {Token: "b"}}}
	s.FormerNames()
	raw, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &former); err != nil || former.OwnENIs != 2 || !former.ENIs[0].Own || former.ENIs[1].Own {
		t.Errorf("%s is read as %+v (%v)", raw, former, err)
	}
	s.ExclusiveENIs, s.ENIs[0].Exclusive = 0, false
	s.FormerNames()
	if s.OwnENIs != 0 || s.ENIs[0].Own {
		t.Errorf("%+v", s)
	}
}
