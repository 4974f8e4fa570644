package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

// plugins are folders of what these programs open themselves: iptables' matches and targets.
const plugins = "/usr/lib/*/xtables"

// Where things are in the guest.
const (
	guestProgram = "/test/program"
	guestDir     = "/test/package"
	guestJob     = "/job.json"
)

// job is what the guest has to do.
type job struct {
	Args []string
	Env  []string
}

// forwarded are the variables of the environment that the guest gets too.
var forwarded = regexp.MustCompile(`^(CI|GO[A-Z]*DEBUG|GOTRACEBACK|TERWAY_[A-Z_]*)=`)

// writeInitrd makes the guest's whole file system: with system, the archive of a Debian system, what that has not.
// The kernel unpacks archives that follow each other as one.
func writeInitrd(file, arch string, k kernel, system, program string, j job) error {
	a, err := createArchive(file)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return errors.Join(fmt.Errorf("find own program: %w", err), a.close())
	}
	if arch != runtime.GOARCH {
		self += "-" + arch
	}
	a.copy("init", self, 0o755)
	after := []string{k.modules}
	if system != "" {
		a.file(guestUnit, []byte(unit), 0o644)
		after = append(after, system)
	} else if err := a.busybox(arch, k); err != nil {
		return errors.Join(err, a.close())
	}
	a.dir(guestDir)
	a.copy(guestProgram, program, 0o755)
	a.tree(guestDir+"/testdata", "testdata")
	text, err := json.Marshal(j)
	if err != nil {
		return errors.Join(err, a.close())
	}
	a.file(guestJob, text, 0o644)
	return a.closeWith(after...)
}

// busybox puts in the system of a guest that has no other.
func (a *archive) busybox(arch string, k kernel) error {
	for _, d := range []string{"proc", "sys", "dev", "tmp", "run", "etc", "root", "bin", "usr/bin"} {
		a.dir(d)
	}
	a.copy("bin/busybox", filepath.Join(k.root, "/bin/busybox"), 0o755)
	for _, t := range tools {
		if err := (guestFiles{a, k.root, arch}).tool(t); err != nil {
			return err
		}
	}
	dirs, err := filepath.Glob(filepath.Join(k.root, plugins))
	for _, d := range dirs {
		a.tree("/"+strings.TrimPrefix(d, k.root), d)
	}
	return err
}

// archive writes a cpio archive of the kind that the kernel reads ("newc"). The first
// error stays until close.
type archive struct {
	f    *os.File
	w    *bufio.Writer
	size int
	ino  int
	dirs map[string]bool
	err  error
}

func createArchive(file string) (*archive, error) {
	f, err := os.Create(file)
	if err != nil {
		return nil, fmt.Errorf("create archive: %w", err)
	}
	return &archive{f: f, w: bufio.NewWriterSize(f, 1<<20), dirs: map[string]bool{".": true}}, nil
}

// entry writes one header, name and content. Format: linux/Documentation/driver-api/early-userspace/buffer-format.rst
func (a *archive) entry(name string, mode uint32, size int, content io.Reader) {
	if a.err != nil {
		return
	}
	a.ino++
	name = strings.TrimPrefix(name, "/")
	// ino mode uid gid nlink mtime size devmajor devminor rdevmajor rdevminor namesize check
	a.text("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", a.ino, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name)+1, 0)
	a.text("%s\x00", name)
	a.pad()
	if content == nil || a.err != nil {
		return
	}
	n, err := io.Copy(a.w, content)
	a.size += int(n)
	if err == nil && int(n) != size {
		err = fmt.Errorf("%s changed its size from %d to %d", name, size, n)
	}
	a.err = err
	a.pad()
}

func (a *archive) text(format string, args ...any) {
	n, err := fmt.Fprintf(a.w, format, args...)
	a.size += n
	a.err = errors.Join(a.err, err)
}

func (a *archive) pad() {
	for a.size%4 != 0 && a.err == nil {
		a.err = a.w.WriteByte(0)
		a.size++
	}
}

func (a *archive) dir(name string) {
	name = strings.Trim(name, "/")
	if a.dirs[name] {
		return
	}
	a.dir(path.Dir(name))
	a.dirs[name] = true
	a.entry(name, 0o040755, 0, nil)
}

func (a *archive) file(name string, content []byte, mode uint32) {
	a.dir(path.Dir(strings.Trim(name, "/")))
	a.entry(name, 0o100000|mode, len(content), strings.NewReader(string(content)))
}

// copy puts a file of this machine into the archive.
func (a *archive) copy(name, file string, mode uint32) {
	if a.err != nil {
		return
	}
	f, err := os.Open(file)
	if err != nil {
		a.err = err
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		a.err = err
		return
	}
	a.dir(path.Dir(strings.Trim(name, "/")))
	a.entry(name, 0o100000|mode, int(info.Size()), f)
}

// tree copies a folder, if there is one.
func (a *archive) tree(name, dir string) {
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		if d.IsDir() {
			a.dir(path.Join(name, rel))
		} else {
			a.copy(path.Join(name, rel), file, 0o644)
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.err = errors.Join(a.err, err)
	}
}

func (a *archive) close() error {
	a.entry("TRAILER!!!", 0, 0, nil)
	return errors.Join(a.err, a.w.Flush(), a.f.Close())
}

// closeWith appends other archives.
func (a *archive) closeWith(others ...string) error {
	a.entry("TRAILER!!!", 0, 0, nil)
	errs := []error{a.err}
	for _, other := range others {
		f, err := os.Open(other)
		if err == nil {
			_, err = io.Copy(a.w, f)
			err = errors.Join(err, f.Close())
		}
		errs = append(errs, err)
	}
	return errors.Join(append(errs, a.w.Flush(), a.f.Close())...)
}
