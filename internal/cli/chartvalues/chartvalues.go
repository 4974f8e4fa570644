// Package chartvalues checks values of Terway's Helm chart as Helm does: with the chart's defaults
// below them, by its schema. It must not know what is beyond the schema.
package chartvalues

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
	"sigs.k8s.io/yaml"

	"terway.dev/terway/deploy"
)

// Check returns what is wrong with values, one line each: "credentials.source: …".
func Check(values map[string]any) ([]string, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(deploy.Schema))
	if err != nil {
		return nil, fmt.Errorf("read the chart's schema: %w", err)
	}
	c := jsonschema.NewCompiler()
	const name = "values.schema.json"
	if err := c.AddResource(name, doc); err != nil {
		return nil, fmt.Errorf("read the chart's schema: %w", err)
	}
	schema, err := c.Compile(name)
	if err != nil {
		return nil, fmt.Errorf("read the chart's schema: %w", err)
	}
	var all map[string]any
	if err := yaml.Unmarshal(deploy.Values, &all); err != nil {
		return nil, fmt.Errorf("read the chart's values: %w", err)
	}
	Put(all, values)
	var wrong *jsonschema.ValidationError
	switch err := schema.Validate(all); {
	case err == nil:
		return nil, nil
	case !errors.As(err, &wrong):
		return nil, err
	}
	var lines []string
	each(wrong, func(e *jsonschema.ValidationError) {
		at := strings.Join(e.InstanceLocation, ".")
		if at == "" {
			at = "the values"
		}
		if line := at + ": " + e.ErrorKind.LocalizedString(message.NewPrinter(language.English)); !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	})
	slices.Sort(lines)
	return lines, nil
}

// Put lays values over others, as Helm does: null removes a key.
func Put(under, over map[string]any) {
	for key, value := range over {
		inner, isMap := value.(map[string]any)
		below, has := under[key].(map[string]any)
		switch {
		case value == nil:
			delete(under, key)
		case isMap && has:
			Put(below, inner)
		default:
			under[key] = value
		}
	}
}

// each calls f for the causes that have none.
func each(e *jsonschema.ValidationError, f func(*jsonschema.ValidationError)) {
	if len(e.Causes) == 0 {
		f(e)
	}
	for _, cause := range e.Causes {
		each(cause, f)
	}
}
