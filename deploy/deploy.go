// Package deploy has the parts of the Helm chart that programs use.
package deploy

import _ "embed"

// Values are the chart's values.yaml, Schema its values.schema.json.
var (
	//go:embed chart/values.yaml
	Values []byte
	//go:embed chart/values.schema.json
	Schema []byte
)
