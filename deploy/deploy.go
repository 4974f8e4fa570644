// Package deploy has the Helm chart, for programs.
package deploy

import "embed"

// Chart has the chart, in the folder ChartDir.
//
//go:embed all:chart
var Chart embed.FS

// ChartDir is the chart's folder in Chart.
const ChartDir = "chart"

// Values are the chart's values.yaml, Schema its values.schema.json.
var (
	//go:embed chart/values.yaml
	Values []byte
	//go:embed chart/values.schema.json
	Schema []byte
)
