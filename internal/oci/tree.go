// Package oci makes container images from files: a tree of files becomes a layer, layers become an image, images become
// an archive. The same files give the same bytes, whatever machine and time. It knows nothing of what is in an image.
package oci

import (
	"archive/tar"
	"bytes"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// File is a file of an image, a symbolic link or a directory.
type File struct {
	// Mode has the permissions.
	Mode int64
	// Content is a file's.
	Content []byte
	// Link is what a symbolic link points to; "" otherwise.
	Link string
}

// Tree has the files of an image, of user and group 0, by absolute path. That of a directory ends with a slash;
// directories of files need no entry.
type Tree map[string]File

// Text puts a text file into the tree.
func (t Tree) Text(name, content string) { t[name] = File{Mode: 0o644, Content: []byte(content)} }

// Link puts a symbolic link into the tree.
func (t Tree) Link(name, to string) { t[name] = File{Mode: 0o777, Link: to} }

// Dir puts a directory into the tree.
func (t Tree) Dir(name string, mode int64) { t[name+"/"] = File{Mode: mode} }

// Program puts an executable file of this machine into the tree.
func (t Tree) Program(name, from string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("put %s into the image: %w", name, err)
	}
	t[name] = File{Mode: 0o755, Content: b}
	return nil
}

// Layer returns the tree as a tar archive.
func (t Tree) Layer() ([]byte, error) {
	all := maps.Clone(t)
	for name := range t {
		if !path.IsAbs(name) || path.Clean(name) != strings.TrimSuffix(name, "/") {
			return nil, fmt.Errorf("%q is no absolute path of a file or, with a slash at the end, a directory", name)
		}
		for dir := path.Dir(strings.TrimSuffix(name, "/")); dir != "/"; dir = path.Dir(dir) {
			if _, ok := all[dir+"/"]; !ok {
				all[dir+"/"] = File{Mode: 0o755}
			}
		}
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		f := all[name]
		h := tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(name, "/"), Mode: f.Mode, ModTime: time.Unix(0, 0), Size: int64(len(f.Content))}
		switch {
		case strings.HasSuffix(name, "/"):
			h.Typeflag = tar.TypeDir
		case f.Link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.Link
		}
		if err := w.WriteHeader(&h); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if _, err := w.Write(f.Content); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := w.Close(); err != nil { // writes the archive's end
		return nil, err
	}
	return buf.Bytes(), nil
}
