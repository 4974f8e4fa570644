package openapi

import "testing"

// A call selects its product by the version alone; faults and rates use the names of product
// and action.
func TestProductsDoNotOverlap(t *testing.T) {
	versions, names := map[string]bool{}, map[string]bool{}
	for _, p := range products() {
		if versions[p.version] {
			t.Errorf("two products have the version %s", p.version)
		}
		if names[p.name] || p.name == "" {
			t.Errorf("version %s has the name %q, want one that no other has", p.version, p.name)
		}
		versions[p.version], names[p.name] = true, true
		for action := range p.perMinute {
			if a, ok := p.actions[action]; !ok || a.product != "" {
				t.Errorf("version %s has a rate of %s, which is none of its own actions", p.version, action)
			}
		}
	}
	for _, p := range products() {
		for action, a := range p.actions {
			if a.product != "" && !names[a.product] {
				t.Errorf("%s of version %s is of product %s, which there is not", action, p.version, a.product)
			}
		}
	}
}
