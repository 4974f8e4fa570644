package v1alpha1

import "encoding/json"

// FormerNames copies renamed fields to their previous names before the spec is stored: an agent or
// a controller of the previous version knows only those, and would give the addresses of an
// exclusive ENI to pods with shared ENIs. Readers find everything under the current names.
func (s *NodeNetworkSpec) FormerNames() {
	s.OwnENIs = s.ExclusiveENIs
	for i := range s.ENIs {
		s.ENIs[i].Own = s.ENIs[i].Exclusive
	}
}

// UnmarshalJSON reads a spec of this version or of the previous one.
func (s *NodeNetworkSpec) UnmarshalJSON(data []byte) error {
	type plain NodeNetworkSpec
	if err := json.Unmarshal(data, (*plain)(s)); err != nil {
		return err
	}
	s.ExclusiveENIs = max(s.ExclusiveENIs, s.OwnENIs)
	return nil
}

// UnmarshalJSON reads an ENI of a spec of this version or of the previous one.
func (e *ENI) UnmarshalJSON(data []byte) error {
	type plain ENI
	if err := json.Unmarshal(data, (*plain)(e)); err != nil {
		return err
	}
	e.Exclusive = e.Exclusive || e.Own
	return nil
}
