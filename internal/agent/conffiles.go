package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// disabledSuffix is added to the names of disabled configurations: runtimes read .conf, .conflist and .json.
const disabledSuffix = ".before-terway"

// DisableConf renames CNI configurations of another network in a folder, so that the runtime does not
// find them, and returns the names of those that it has renamed. Missing ones are no error, and Terway's own
// configuration stays, also under a name that the other network uses.
func DisableConf(dir string, names []string) (renamed []string, err error) {
	for _, name := range names {
		path := filepath.Join(dir, name)
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) || err == nil && isOurs(data) {
			continue
		}
		if err == nil {
			err = os.Rename(path, path+disabledSuffix)
		}
		if err != nil {
			return renamed, fmt.Errorf("disable the CNI configuration %s: %w", path, err)
		}
		renamed = append(renamed, name)
	}
	return renamed, nil
}

// EnableConf gives disabled configurations their names back, and returns those. One that has been written
// again since is newer, and stays.
func EnableConf(dir string, names []string) (renamed []string, err error) {
	for _, name := range names {
		path := filepath.Join(dir, name)
		if data, err := os.ReadFile(path); err == nil && isOurs(data) {
			return renamed, fmt.Errorf("the CNI configuration %s is Terway's: want it removed before, which \"terwayd teardown\" does", path)
		} else if err == nil {
			if err := remove(path + disabledSuffix); err != nil {
				return renamed, err
			}
			continue
		}
		switch err := os.Rename(path+disabledSuffix, path); {
		case err == nil:
			renamed = append(renamed, name)
		case !errors.Is(err, fs.ErrNotExist):
			return renamed, fmt.Errorf("enable the CNI configuration %s: %w", path, err)
		}
	}
	return renamed, nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// isOurs reports whether a CNI configuration is one of Conflist's: the existing Terway's plugin has the
// same name, and no socket.
func isOurs(data []byte) bool {
	var list struct {
		Plugins []struct{ Type, Socket string }
	}
	return json.Unmarshal(data, &list) == nil && slices.ContainsFunc(list.Plugins, func(p struct{ Type, Socket string }) bool {
		return p.Type == "terway" && p.Socket != ""
	})
}
