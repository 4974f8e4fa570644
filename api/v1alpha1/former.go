package v1alpha1

import "encoding/json"

// FormerNames writes what has another name since under the former one too, before the spec is
// stored: an agent or a controller of the former version knows no other, and would give the
// addresses of an exclusive ENI to pods that share one. Whoever reads finds all under the
// present names.
func (s *NodeNetworkSpec) FormerNames() {
	s.OwnENIs = s.ExclusiveENIs
	for i := range s.ENIs {
		s.ENIs[i].Own = s.ENIs[i].Exclusive
	}
}

// UnmarshalJSON reads a spec of this version or of the former one.
func (s *NodeNetworkSpec) UnmarshalJSON(data []byte) error {
	type plain NodeNetworkSpec
	if err := json.Unmarshal(data, (*plain)(s)); err != nil {
		return err
	}
	s.ExclusiveENIs = max(s.ExclusiveENIs, s.OwnENIs)
	return nil
}

// UnmarshalJSON reads an ENI of a spec of this version or of the former one.
func (e *ENI) UnmarshalJSON(data []byte) error {
	type plain ENI
	if err := json.Unmarshal(data, (*plain)(e)); err != nil {
		return err
	}
	e.Exclusive = e.Exclusive || e.Own
	return nil
}
