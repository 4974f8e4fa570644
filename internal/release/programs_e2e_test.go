//go:build e2e

package main

import (
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"terway.dev/terway/internal/product"
	"terway.dev/terway/internal/version"
)

// emulators run a program of another architecture on this machine's kernel.
var emulators = map[string]string{"amd64": "qemu-x86_64-static", "arm64": "qemu-aarch64-static"}

// netfilter has the programs that begin with opening a socket that the emulators do not have, and what they say then: they
// run, but not to the point where they say their version.
var netfilter = map[string]string{
	"/usr/sbin/nft":       "Unable to initialize Netlink socket: Protocol not supported",
	"/usr/sbin/conntrack": "(conntrack-tools): Can't open handler",
}

// mayRun says whether programs can be run in a root directory of their own.
func (w *world) mayRun() bool {
	w.Helper()
	if os.Geteuid() == 0 {
		return true
	}
	if os.Getenv("CI") == "true" {
		w.Fatal("this test changes the root directory of programs: it needs root")
	}
	w.Log("without root no program of the image was run")
	return false
}

// answers runs each program among the image's files with nothing but these files: it finds its libraries with all
// symbols, and is of the version that it should be.
func (w *world) answers(arch, root string, files []string) {
	if !w.mayRun() {
		return
	}
	list, err := product.Packages(arch)
	if err != nil {
		w.Fatal(err)
	}
	upstream := map[string]string{}
	for _, p := range list {
		v, _, _ := strings.Cut(p.Version, "-")
		upstream[p.Name] = v[strings.Index(v, ":")+1:]
	}
	ran := 0
	for _, file := range files {
		s, err := os.Lstat(filepath.Join(root, file))
		if err != nil {
			w.Fatal(err)
		}
		if strings.Contains(path.Base(file), ".so") || s.Mode().IsRegular() && s.Mode()&0o111 == 0 || s.Mode()&fs.ModeSymlink != 0 && file != "/sbin/ip" {
			continue
		}
		ran++
		switch path.Dir(file) {
		case "/usr/bin":
			w.version(arch, root, file)
			continue
		case "/usr/lib/cni":
			w.plugin(arch, root, file)
			continue
		}
		want := map[string]string{
			"/usr/sbin/nft":       "nftables v" + upstream["nftables"] + " ",
			"/usr/sbin/conntrack": "conntrack v" + upstream["conntrack"] + " ",
			"/bin/ip":             "ip utility, iproute2-" + upstream["iproute2"] + ", ",
			"/sbin/ip":            "ip utility, iproute2-" + upstream["iproute2"] + ", ",
			"/sbin/tc":            "tc utility, iproute2-" + upstream["iproute2"] + ", ",
			"/sbin/bridge":        "bridge utility, " + upstream["iproute2"],
		}[file]
		out, err := w.under(arch, root, file, "-V").CombinedOutput()
		if noSocket, ok := netfilter[file]; ok && arch != runtime.GOARCH {
			want, err = noSocket, nil
		}
		if err != nil || want == "" || !strings.Contains(string(out), want) {
			w.Errorf("%s: %s -V says %q (%v), want %q", arch, file, out, err, want)
		}
	}
	if want := len(product.Programs) + len(product.Plugins) + 6; ran != want {
		w.Errorf("%s: %d programs, want %d", arch, ran, want)
	}
}

// version asks a program of Terway of which release it is.
func (w *world) version(arch, root, file string) {
	w.Helper()
	said, err := w.under(arch, root, file, "version", "-o", "json").Output()
	var i version.Info
	if err != nil || json.Unmarshal(said, &i) != nil || i.Version != "v1.2.3" || i.Commit != commit || i.Platform != "linux/"+arch {
		w.Errorf("%s: %s version -o json says %s (%v)", arch, file, said, err)
	}
	if line, err := w.under(arch, root, file, "--version").Output(); err != nil || !strings.Contains(string(line), i.String()) {
		w.Errorf("%s: %s --version says %s (%v), want %s", arch, file, line, err, i)
	}
}

// plugin asks one of upstream's plugins which versions of CNI it knows.
func (w *world) plugin(arch, root, file string) {
	cmd := w.under(arch, root, file)
	cmd.Env, cmd.Stdin = append(cmd.Env, "CNI_COMMAND=VERSION"), strings.NewReader(`{"cniVersion":"1.0.0"}`)
	out, err := cmd.Output()
	var said struct{ SupportedVersions []string }
	if err != nil || json.Unmarshal(out, &said) != nil || len(said.SupportedVersions) < 5 {
		w.Errorf("%s: %s says %s of its versions (%v)", arch, file, out, err)
	}
}

// under is a command with root as its root directory, under an emulator if it is for another architecture. The
// loader resolves all symbols at the start.
func (w *world) under(arch, root string, args ...string) *exec.Cmd {
	w.Helper()
	if arch != runtime.GOARCH {
		from, err := exec.LookPath(emulators[arch])
		if err != nil {
			w.Fatalf("programs for %s need an emulator, which test/deps.sh installs for arm64: %v", arch, err)
		}
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(root, "emulator"), b, 0o755)
		}
		if err != nil {
			w.Fatal(err)
		}
		args = append([]string{"/emulator"}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env, cmd.Dir, cmd.SysProcAttr = []string{"LD_BIND_NOW=1"}, "/", &syscall.SysProcAttr{Chroot: root}
	return cmd
}
