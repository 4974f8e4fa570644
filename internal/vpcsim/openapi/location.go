package openapi

// locationProduct is what SDKs ask to find a product's endpoint: it is always the one
// that was asked.
func locationProduct() product {
	return product{name: "Location", version: "2015-06-12", actions: actions{"DescribeEndpoints": {run: func(c *call) (obj, error) {
		service, e := c.required("ServiceCode")
		if e != nil {
			return nil, e
		}
		return obj{"Success": true, "Endpoints": obj{"Endpoint": []obj{{
			"Endpoint": c.host, "Id": c.region, "Namespace": "", "SerivceCode": service, // sic
			"Type": "openAPI", "Protocols": obj{"Protocols": []string{"HTTP"}},
		}}}}, nil
	}}}}
}
