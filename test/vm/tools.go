package main

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// tools are the programs that tests call in the guest, with their shared libraries.
// Busybox stands in for everything else.
var tools = []string{"ip", "tc", "nft", "ipvsadm", "iptables", "ip6tables", "iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"}

// toolPackages has them for another architecture than this machine's, whose own are installed (test/deps.sh).
var toolPackages = []string{"iproute2", "nftables", "ipvsadm", "iptables", "busybox-static"}

// toolsDir has their files, below the folder of a kernel.
const toolsDir = "tools"

// fetchTools leaves the packages' files and those of what they need in dir.
func fetchTools(ctx context.Context, dir, arch string) error {
	return elsewhere(ctx, dir, arch, []string{"bookworm"}, func(options []string) error {
		archives, none := filepath.Join(dir, "apt", "archives"), filepath.Join(dir, "apt", "status")
		if err := errors.Join(os.MkdirAll(filepath.Join(archives, "partial"), 0o755), os.WriteFile(none, nil, 0o644)); err != nil {
			return err
		}
		options = append(options, "-q", "-y", "--no-install-recommends", "--download-only", "-o", "APT::Sandbox::User=root",
			"-o", "Dir::State::status="+none, "-o", "Dir::Cache::archives="+archives)
		if _, err := command(ctx, dir, "apt-get", append(options, "update")...); err != nil {
			return err
		}
		if _, err := command(ctx, dir, "apt-get", append(append(options, "install"), toolPackages...)...); err != nil {
			return err
		}
		debs, err := filepath.Glob(filepath.Join(archives, "*.deb"))
		if err != nil {
			return err
		}
		root := filepath.Join(dir, toolsDir)
		for _, deb := range debs {
			if _, err := command(ctx, dir, "dpkg-deb", "-x", deb, root); err != nil {
				return err
			}
		}
		// What the packages' scripts do when they are installed.
		return errors.Join(os.Symlink("iptables-nft", filepath.Join(root, "usr/sbin/iptables")), os.Symlink("ip6tables-nft", filepath.Join(root, "usr/sbin/ip6tables")))
	})
}

// guestFiles copies programs and their libraries from a root directory of an architecture to where the guest looks for them.
type guestFiles struct {
	*archive
	root, arch string
}

// tool copies a program of the root directory.
func (g guestFiles) tool(name string) error {
	for _, dir := range []string{"/usr/bin", "/bin", "/usr/sbin", "/sbin"} {
		if file := filepath.Join(g.root, dir, name); exists(file) {
			g.copy("usr/bin/"+name, file, 0o755)
			return g.libraries(file)
		}
	}
	return fmt.Errorf("%s, which tests call, is missing below %s (test/deps.sh installs it)", name, g.root)
}

// libraries copies what a program or library needs: its loader and its shared libraries.
func (g guestFiles) libraries(file string) error {
	e, err := elf.Open(file)
	if err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	defer e.Close()
	for _, p := range e.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		loader, err := io.ReadAll(p.Open())
		if err != nil {
			return fmt.Errorf("read %s: %w", file, err)
		}
		if err := g.library(strings.TrimRight(string(loader), "\x00")); err != nil {
			return err
		}
	}
	names, err := e.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	for _, name := range names {
		at := path.Join("/lib", architectures[g.arch].triplet, name)
		if !exists(filepath.Join(g.root, at)) {
			at = path.Join("/usr", at)
		}
		if err := g.library(at); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	return nil
}

func (g guestFiles) library(at string) error {
	key := "library " + at
	if g.dirs[key] {
		return nil
	}
	g.dirs[key] = true
	g.copy(at, filepath.Join(g.root, at), 0o755)
	return g.libraries(filepath.Join(g.root, at))
}
