package plan

import (
	"fmt"

	"sigs.k8s.io/yaml"
)

// Version is the form of the plan file that this package reads and writes.
const Version = 1

// Parse reads a plan in YAML or JSON. It looks at the form alone: keys that exist,
// values of the right kind; Check knows the network's rules. The error is a
// Problems with everything that is wrong.
func Parse(data []byte) (*Plan, error) {
	var raw any
	if err := yaml.UnmarshalStrict(data, &raw); err != nil {
		return nil, fmt.Errorf("the plan is not YAML: %w", err)
	}
	fields, ok := raw.(map[string]any)
	if !ok {
		return nil, Problems{{Field: "plan", Value: describe(raw), Want: "the keys of a plan: version, name, region, …"}}
	}
	// The keys of another version are not mistakes of this one.
	if v, ok := fields["version"].(float64); ok && v != Version {
		return nil, Problems{{Field: "version", Value: fmt.Sprint(v), Want: fmt.Sprintf("%d, the form that this terwayctl reads", Version)}}
	}
	p := &Plan{}
	if ps := decode(fields, p); len(ps) > 0 {
		return nil, ps
	}
	return p, nil
}

// Marshal writes the plan as YAML. Equal plans give equal bytes.
func (p *Plan) Marshal() ([]byte, error) {
	out, err := yaml.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("write the plan as YAML: %w", err)
	}
	return out, nil
}
