package product

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"terway.dev/terway/internal/atomicfile"
)

// Pin writes the versions of the packages that the mirror has now, and the list of their files, into the folder dir of
// the source tree (internal/product). apt verifies the mirror's signature.
func (d Debian) Pin(ctx context.Context, dir string) error {
	all := map[string][]Package{}
	for _, arch := range Architectures {
		list, err := d.current(ctx, arch)
		if err != nil {
			return fmt.Errorf("ask %s for %s: %w", Suite, arch, err)
		}
		all[arch] = list
		tree, err := d.Tree(ctx, list)
		if err != nil {
			return err
		}
		if err := write(filepath.Join(dir, fmt.Sprintf(filesFile, arch)), []byte(Listing(tree))); err != nil {
			return err
		}
	}
	b, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	return write(filepath.Join(dir, packagesFile), append(b, '\n'))
}

// uri is a line of "apt-get --print-uris download".
var uri = regexp.MustCompile(`^'([^']+)' ([^_ ]+)_([^_ ]+)_\S+ \d+ SHA256:([0-9a-f]{64})$`)

// current asks apt, with lists of its own beside those of this machine, for the packages' present versions.
func (d Debian) current(ctx context.Context, arch string) ([]Package, error) {
	mirror := d.Mirror
	if mirror == "" {
		mirror = DefaultMirror
	}
	dir, err := os.MkdirTemp("", "apt-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	for _, sub := range []string{"etc/parts", "etc/preferences.d", "state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	const keys = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
	files := map[string]string{
		"etc/sources": fmt.Sprintf("deb %s %s/debian %s main\ndeb %[1]s %[2]s/debian-security %[3]s-security main\n", keys, mirror, Suite),
		"status":      "", // nothing is installed
		"apt.conf": fmt.Sprintf(`Dir::Etc "%[1]s/etc"; Dir::Etc::sourcelist "%[1]s/etc/sources"; Dir::Etc::sourceparts "%[1]s/etc/parts"; Dir::Etc::parts "parts";
Dir::State "%[1]s/state"; Dir::State::status "%[1]s/status"; Dir::Cache "%[1]s/cache"; APT::Sandbox::User "root"; Acquire::Languages "none";
APT::Architecture "%[2]s"; APT::Architectures { "%[2]s"; };
`, dir, arch),
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return nil, err
		}
	}
	apt := func(args ...string) ([]byte, error) {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "APT_CONFIG="+filepath.Join(dir, "apt.conf"))
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("apt-get %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(errs.Bytes()))
		}
		return out, nil
	}
	if _, err := apt("-qq", "update"); err != nil {
		return nil, err
	}
	names := slices.Sorted(maps.Keys(contents))
	out, err := apt(append([]string{"-qq", "--print-uris", "download"}, names...)...)
	if err != nil {
		return nil, err
	}
	var list []Package
	for line := range strings.Lines(string(out)) {
		m := uri.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			return nil, fmt.Errorf("apt-get --print-uris says %q, which names no package with its digest", line)
		}
		version, err := url.PathUnescape(m[3])
		if err != nil {
			return nil, err
		}
		list = append(list, Package{Name: m[2], Version: version, Path: strings.TrimPrefix(m[1], mirror+"/"), SHA256: m[4]})
	}
	slices.SortFunc(list, func(a, b Package) int { return strings.Compare(a.Name, b.Name) })
	if len(list) != len(names) {
		return nil, fmt.Errorf("%d of %d packages found", len(list), len(names))
	}
	return list, nil
}

// write replaces a file; its folder is made.
func write(to string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return atomicfile.Write(to, b, 0o644)
}
