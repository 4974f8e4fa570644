package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"terway.dev/terway/internal/agent/request"
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
			// The runtime adds the pod's annotations; one that cannot leaves them out.
			{"type": "terway", "socket": socket, "capabilities": map[string]bool{request.CapabilityAnnotations: true}},
			{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}},
		},
	}, "", "  ")
}

// WriteFile replaces a file in one step: readers see the old or the new one. It
// does nothing when the contents are already there.
func WriteFile(path string, data []byte, mode fs.FileMode) (err error) {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// The runtime reads every *.conf, *.conflist and *.json; the name must be none of these.
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".tmp-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(f.Name()))
		}
	}()
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Chmod(mode); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// InstallPlugin puts the plugin where the runtime looks for it. A plugin that is
// running is not disturbed: the file is replaced, not written.
func InstallPlugin(from, dir string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("read the CNI plugin: %w", err)
	}
	return WriteFile(filepath.Join(dir, "terway"), data, 0o755)
}
