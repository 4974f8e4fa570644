package openapi

// product is one product of the cloud as callers see it.
type product struct {
	// name is how refusals and fault rules call the product.
	name string
	// version is its API's, which no other product has: a call names the product by it.
	version string
	actions actions
	// perMinute are the rates of actions, calls per minute, where they are not
	// defaultPerMinute.
	perMinute map[string]int
}

// products are those that the cloud has.
func products() []product {
	return []product{ecsProduct(), vpcProduct(), locationProduct(), stsProduct()}
}

// byVersion are products by their version.
func byVersion(products []product) map[string]product {
	m := make(map[string]product, len(products))
	for _, p := range products {
		m[p.version] = p
	}
	return m
}
