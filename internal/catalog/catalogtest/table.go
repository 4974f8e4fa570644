// Package catalogtest has tables of instance types for tests.
package catalogtest

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"terway.dev/terway/internal/catalog"
)

// Table writes a table as "terwayctl instance-types refresh" does, and returns its path.
func Table(t testing.TB, types ...catalog.Type) string {
	t.Helper()
	c, err := catalog.New(types)
	if err != nil {
		t.Fatal(err)
	}
	var csv bytes.Buffer
	if err := c.Write(&csv); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "types.csv")
	if err := os.WriteFile(path, csv.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
