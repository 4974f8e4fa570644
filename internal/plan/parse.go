package plan

import (
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/decode"
)

// Version is the version of the plan file's format.
const Version = 1

// Parse parses a plan in YAML or JSON. It checks only the form: known keys, values of the right
// type; Check knows the rules. The error is a Problems with everything that is wrong, unless
// the input is not YAML.
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

// Read is Parse and Check: the error has the problems of form and of the network.
func Read(data []byte, types Catalog) (*Plan, error) {
	p, ps, err := parse(data)
	if err != nil {
		return nil, err
	}
	if p != nil {
		// A field with a wrong form is not reported as missing or invalid too.
		var said []string
		for _, form := range ps {
			meant := form.Field[:strings.LastIndex(form.Field, ".")+1] + form.Want // a misspelt key
			said = append(said, form.Field, meant)
		}
		c := rules(p, types)
		if len(ps) == 0 {
			c.fits() // otherwise it would use the default of a field with a wrong form
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

// parse returns the fields of the plan that have the right form, or nil if there are none.
func parse(data []byte) (*Plan, Problems, error) {
	raw, err := decode.YAML(data)
	if err != nil {
		return nil, nil, fmt.Errorf("the plan is %w", err)
	}
	fields, ok := raw.(map[string]any)
	if !ok {
		return nil, Problems{{Field: "plan", Value: decode.Describe(raw), Want: "the keys of a plan: version, name, region, …"}}, nil
	}
	// The keys of another version are not reported.
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
