package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"terway.dev/terway/internal/agent/request"
	"terway.dev/terway/internal/atomicfile"
	"terway.dev/terway/internal/cnicall"
)

// ConflistName is the file that tells the container runtime to use Terway.
const ConflistName = "10-terway.conflist"

// Conflist is the CNI configuration: Terway, then the chained plugins that
// Kubernetes features need (portmap for hostPort). Version 1.1.0 of the
// specification has GC and STATUS; a runtime that does not know it yet (libcni
// before 1.2) needs 1.0.0.
func Conflist(socket, version string) ([]byte, error) {
	if !slices.Contains(cnicall.Versions, version) {
		return nil, fmt.Errorf("CNI version %q: want one of %v", version, cnicall.Versions)
	}
	return json.MarshalIndent(map[string]any{
		"cniVersion": version,
		"name":       "terway",
		"plugins": []map[string]any{
			// The runtime adds the pod's annotations; one without this capability leaves them out.
			{"type": "terway", "socket": socket, "capabilities": map[string]bool{request.CapabilityAnnotations: true}},
			{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}},
		},
	}, "", "  ")
}

// WriteFile replaces a file in one step: readers see the old or the new one. It
// does nothing when the contents are already there.
func WriteFile(path string, data []byte, mode fs.FileMode) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return atomicfile.Write(path, data, mode)
}

// InstallPlugin copies the plugin to where the runtime looks for it. A running plugin is not
// disturbed: the file is replaced, not overwritten.
func InstallPlugin(from, dir string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("read the CNI plugin: %w", err)
	}
	return WriteFile(filepath.Join(dir, "terway"), data, 0o755)
}
