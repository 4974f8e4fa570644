package plan

import (
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/decode"
)

// Version is the form of the plan file that this package reads and writes.
const Version = 1

// Parse reads a plan in YAML or JSON. It looks at the form alone: keys that exist,
// values of the right kind; Check knows the network's rules. The error is a
// Problems with everything that is wrong, unless it is not YAML at all.
func Parse(data []byte) (*Plan, error) {
	p, ps, err := parse(data)
	if err != nil {
		return nil, err
	}
	if len(ps) > 0 {
		return nil, ps
	}
	return p, nil
}

// Read is Parse and Check in one: the error names what is wrong with the form and
// with the network.
func Read(data []byte, types Catalog) (*Plan, error) {
	p, ps, err := parse(data)
	if err != nil {
		return nil, err
	}
	if p != nil {
		// What has the wrong form is not missing or wrong besides.
		var said []string
		for _, form := range ps {
			meant := form.Field[:strings.LastIndex(form.Field, ".")+1] + form.Want // of a misspelt key
			said = append(said, form.Field, meant)
		}
		c := rules(p, types)
		if len(ps) == 0 {
			c.fits() // it would count with the default of what has the wrong form
		}
		for _, problem := range c.Problems {
			if !slices.ContainsFunc(said, func(s string) bool { return below(problem.Field, s) }) {
				ps = append(ps, problem)
			}
		}
	}
	if len(ps) > 0 {
		return nil, ps
	}
	return p, nil
}

// below reports whether the field is the other one or inside it.
func below(field, other string) bool {
	rest, ok := strings.CutPrefix(field, other)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// parse gives the plan as far as it has the right form; nil when there is none.
func parse(data []byte) (*Plan, Problems, error) {
	raw, err := decode.YAML(data)
	if err != nil {
		return nil, nil, fmt.Errorf("the plan is %w", err)
	}
	fields, ok := raw.(map[string]any)
	if !ok {
		return nil, Problems{{Field: "plan", Value: decode.Describe(raw), Want: "the keys of a plan: version, name, region, …"}}, nil
	}
	// The keys of another version are not mistakes of this one.
	if v, ok := fields["version"].(float64); ok && v != Version {
		return nil, Problems{{Field: "version", Value: fmt.Sprint(v), Want: fmt.Sprintf("%d, the form that this terwayctl reads", Version)}}, nil
	}
	p := &Plan{}
	var ps Problems
	for _, m := range decode.Object(fields, p) {
		ps = append(ps, Problem(m))
	}
	return p, ps, nil
}

// Marshal writes the plan as YAML. Equal plans give equal bytes.
func (p *Plan) Marshal() ([]byte, error) {
	out, err := yaml.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("write the plan as YAML: %w", err)
	}
	return out, nil
}
