package openapi

import "testing"

// A call finds its product by the version alone, and its rate by the action alone.
func TestProductsDoNotOverlap(t *testing.T) {
	versions, rates := map[string]bool{}, map[string]int{}
	for _, p := range products() {
		if versions[p.version] {
			t.Errorf("two products have the version %s", p.version)
		}
		versions[p.version] = true
		for action, n := range p.perMinute {
			if _, ok := p.actions[action]; !ok {
				t.Errorf("version %s has a rate of %s, which it does not have", p.version, action)
			}
			if other, ok := rates[action]; ok && other != n {
				t.Errorf("%s has the rates %d and %d", action, other, n)
			}
			rates[action] = n
		}
	}
}
