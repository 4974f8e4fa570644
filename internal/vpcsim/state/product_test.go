package state

import "testing"

// Products have different operations and resource types: of two with the same name one would be
// lost.
func TestProductsDoNotOverlap(t *testing.T) {
	kinds, types := map[kind]bool{}, map[string]bool{}
	for _, p := range products {
		for k, c := range p.operations {
			if kinds[k] {
				t.Errorf("two products have the operation %s", k)
			}
			if kinds[k] = true; c.exists == nil || c.finish == nil {
				t.Errorf("operation %s has no completion", k)
			}
		}
		for name := range p.tagged {
			if types[name] {
				t.Errorf("two products have the resource type %s", name)
			}
			types[name] = true
		}
	}
}
