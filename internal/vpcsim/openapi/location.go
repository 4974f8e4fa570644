package openapi

// locationProduct is the service by which SDKs find a product's endpoint: it always returns the
// endpoint of the request.
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
