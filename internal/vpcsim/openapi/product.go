package openapi

import "cmp"

// product is a product of the cloud as callers see it.
type product struct {
	// name is used in errors and fault rules.
	name string
	// version is the version of its API, which is unique: a call selects the product by it.
	version string
	actions actions
	// perMinute are the rates of actions in calls per minute, if they are not defaultPerMinute.
	perMinute map[string]int
}

// products returns the products of the cloud.
func products() []product {
	return []product{ecsProduct(), vpcProduct(), slbProduct(), nlbProduct(), locationProduct(), stsProduct()}
}

// of returns the product to which one of the actions belongs.
func (p product) of(a action) string { return cmp.Or(a.product, p.name) }

// ambiguous returns the names of actions that several products have.
func ambiguous(products []product) map[string]bool {
	of, out := map[string]string{}, map[string]bool{}
	for _, p := range products {
		for name, a := range p.actions {
			if was, there := of[name]; there && was != p.of(a) {
				out[name] = true
			}
			of[name] = p.of(a)
		}
	}
	return out
}

// byVersion returns the products by version.
func byVersion(products []product) map[string]product {
	m := make(map[string]product, len(products))
	for _, p := range products {
		m[p.version] = p
	}
	return m
}
