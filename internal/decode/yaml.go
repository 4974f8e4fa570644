package decode

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	goyaml "go.yaml.in/yaml/v2"
	"sigs.k8s.io/yaml"
)

// YAML parses one value in YAML or JSON: maps with string keys, lists, strings, numbers
// (float64), booleans, and nil. A duplicate key is an error, and so is a second document.
func YAML(data []byte) (any, error) {
	var value any
	if err := yaml.UnmarshalStrict(data, &value); err != nil {
		return nil, fmt.Errorf("not YAML: %w", err)
	}
	return value, OneDocument(data)
}

// OneDocument rejects YAML with several documents: the libraries read the first one and ignore
// the rest.
func OneDocument(data []byte) error {
	documents := goyaml.NewDecoder(bytes.NewReader(data))
	for n := 1; ; n++ {
		var one any
		err := documents.Decode(&one)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case n > 1 && (one != nil || err != nil):
			return errors.New("more than one YAML document (with --- between them): want one")
		case err != nil:
			return fmt.Errorf("not YAML: %w", err)
		}
	}
}
