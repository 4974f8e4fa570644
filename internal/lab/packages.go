package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// packages are Debian packages that the lab needs at run time, with a program of each.
var packages = []struct{ program, name string }{
	{"runc", "runc"}, {"nft", "nftables"}, {"ip", "iproute2"},
	{"curl", "curl"}, {"busybox", "busybox-static"}, {"dash", "dash"}, {"bpftool", "bpftool"}, {"ldd", "libc-bin"},
	// In the image of agnhost, for suites of others (package conformance).
	{"bash", "bash"}, {"dig", "bind9-dnsutils"}, {"nc.openbsd", "netcat-openbsd"}, {"wget", "wget"},
}

// cgoPackages are the packages to build Flannel with, with a program of them.
var cgoPackages = struct {
	program string
	names   []string
}{"gcc", []string{"gcc", "libc6-dev"}}

// installPackages installs missing packages with apt-get.
func (o *Options) installPackages(ctx context.Context, p *Progress) error {
	var missing []string
	for _, pkg := range packages {
		if _, err := exec.LookPath(pkg.program); err != nil {
			missing = append(missing, pkg.name)
		}
	}
	if _, err := exec.LookPath(cgoPackages.program); err != nil && o.Network == NetworkFlannel {
		missing = append(missing, cgoPackages.names...)
	}
	if len(missing) == 0 {
		return nil
	}
	return p.Step("install Debian packages "+strings.Join(missing, " "), func() error {
		apt := func(args ...string) error {
			cmd := exec.CommandContext(ctx, "apt-get", args...)
			cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, out)
			}
			return nil
		}
		install := append([]string{"install", "-y", "-q", "--no-install-recommends"}, missing...)
		if apt(install...) == nil {
			return nil
		}
		// The package lists may be old or missing.
		if err := apt("update", "-q"); err != nil {
			return err
		}
		return apt(install...)
	})
}
