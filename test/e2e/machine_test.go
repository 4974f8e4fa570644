//go:build e2e

package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/lab"
)

// machine is what a lab must not leave behind: a name for each object.
type machine map[string]bool

// look lists namespaces, devices, addresses, routes, mounts, cgroups, lab processes, eBPF
// programs and maps, and the directories that a node would make on a real machine.
func look(t *testing.T) machine {
	t.Helper()
	m := machine{}
	note := func(kind string, what ...any) { m[kind+" "+fmt.Sprint(what...)] = true }
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("look at the machine: %v", err)
		}
	}
	entries, err := os.ReadDir("/run/netns")
	if !errors.Is(err, fs.ErrNotExist) {
		check(err)
	}
	// Tests that run at the same time (package testutil) have their own.
	others := func(netns string) bool { return strings.HasPrefix(netns, "test-") }
	for _, e := range entries {
		if !others(e.Name()) {
			note("network namespace", e.Name())
		}
	}
	links, err := netlink.LinkList()
	check(err)
	for _, l := range links {
		note("device", l.Attrs().Name)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	check(err)
	for _, a := range addrs {
		note("address", a.IPNet)
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	check(err)
	for _, r := range routes {
		note("route", r)
	}
	mounts, err := os.Open("/proc/self/mounts")
	check(err)
	defer mounts.Close()
	for s := bufio.NewScanner(mounts); s.Scan(); {
		at := strings.Fields(s.Text())[1]
		if name, ok := strings.CutPrefix(at, "/run/netns/"); !ok || !others(name) {
			note("mount", at)
		}
	}
	check(filepath.WalkDir("/sys/fs/cgroup", func(p string, d fs.DirEntry, err error) error {
		// Sessions and services of others change.
		if err == nil && d.IsDir() && strings.Contains(p, "/"+lab.Prefix) {
			note("cgroup", p)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}))
	strays, err := lab.Strays()
	check(err)
	for _, p := range strays {
		note("process", p.Name, " ", p.PID)
	}
	for id := ebpf.ProgramID(0); ; {
		if id, err = ebpf.ProgramGetNextID(id); errors.Is(err, os.ErrNotExist) {
			break
		}
		check(err)
		note("eBPF program", id)
	}
	for id := ebpf.MapID(0); ; {
		if id, err = ebpf.MapGetNextID(id); errors.Is(err, os.ErrNotExist) {
			break
		}
		check(err)
		note("eBPF map", id)
	}
	for _, p := range []string{"/etc/cni", "/opt/cni", "/etc/kubernetes", "/run/containerd", "/run/terway", "/var/lib/cni", "/var/lib/containerd",
		"/var/lib/kubelet", "/var/log/pods", "/var/log/containers", "/usr/libexec/kubernetes", lab.DefaultDir} {
		if _, err := os.Stat(p); err == nil {
			note("folder", p)
		}
	}
	for _, f := range []string{"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys",
		"net/ipv4/ip_forward", "net/netfilter/nf_conntrack_max"} {
		if b, err := os.ReadFile("/proc/sys/" + f); err == nil {
			note("sysctl", f, "=", strings.TrimSpace(string(b)))
		}
	}
	return m
}

// sameAs waits until nothing exists that did not before. The kernel removes network namespaces
// and the programs on their devices in the background, after the last TCP connection in them
// has ended. terway-lab down makes these end soon (package lab, orphanRetries); otherwise the
// kernel would take more than 100 s, which is longer than this waits.
func (before machine) sameAs(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		now := look(t)
		more, less := now.without(before), before.without(now)
		// What others remove meanwhile does not matter; what the lab could have removed does.
		less = slices.DeleteFunc(less, func(k string) bool {
			kind, _, _ := strings.Cut(k, " ")
			return !slices.Contains([]string{"device", "address", "route", "mount", "sysctl"}, kind)
		})
		if len(more)+len(less) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the machine is not as it was.\nleft over:\n  %s\ngone:\n  %s", strings.Join(more, "\n  "), strings.Join(less, "\n  "))
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func (m machine) without(other machine) []string {
	var names []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if !other[k] {
			names = append(names, k)
		}
	}
	return names
}
