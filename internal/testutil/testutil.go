// Package testutil helps tests that need root: it makes network namespaces, and runs code,
// commands and connections in them. A test that uses it leaves nothing behind and changes
// nothing in its own namespace.
//
// Only tests may import the package.
package testutil

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/kernel"
)

// NetNSDir is where `ip netns` keeps namespaces, so that `ip netns exec` works for those of a
// test.
const NetNSDir = "/run/netns"

// RequireRoot skips a test that is not run by root; in CI it fails the test.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("this test needs root, and CI must run it as root")
	}
	t.Skip("this test needs root")
}

// NS is a network namespace that is removed with the test.
type NS struct {
	t    testing.TB
	Name string
	// Path is the mount of the namespace.
	Path string
}

// NewNS makes a namespace with loopback up. Its name contains the label.
func NewNS(t testing.TB, label string) *NS {
	t.Helper()
	RequireRoot(t)
	random := make([]byte, 4)
	if _, err := rand.Read(random); err != nil {
		t.Fatalf("random name of a network namespace: %v", err)
	}
	ns := &NS{t: t, Name: "test-" + label + "-" + hex.EncodeToString(random)}
	ns.Path = filepath.Join(NetNSDir, ns.Name)
	if err := os.MkdirAll(NetNSDir, 0o755); err != nil {
		t.Fatalf("create %s: %v", NetNSDir, err)
	}
	if err := create(ns.Path); err != nil {
		t.Fatalf("create network namespace %s: %v", ns.Name, err)
	}
	t.Cleanup(ns.Remove)
	if err := ns.Do(loopbackUp); err != nil {
		t.Fatalf("set loopback of network namespace %s up: %v", ns.Name, err)
	}
	return ns
}

// loopbackUp runs no program: a test may make hundreds of namespaces.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// At returns a namespace that is managed elsewhere.
func At(t testing.TB, path string) *NS {
	return &NS{t: t, Name: filepath.Base(path), Path: path}
}

// create makes a new namespace on a separate thread and mounts it at path. The thread ends with
// its goroutine.
func create(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("unshare: %w", err)
			return
		}
		own := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
		done <- unix.Mount(own, path, "", unix.MS_BIND, "")
	}()
	return <-done
}

// Remove removes the namespace before the test ends. A second call does nothing.
func (ns *NS) Remove() {
	ns.t.Helper()
	if _, err := os.Stat(ns.Path); os.IsNotExist(err) {
		return
	}
	if err := kernel.RemoveNamespace(ns.Path); err != nil {
		ns.t.Error(err)
	}
}

// Do runs f on a thread in the namespace. Sockets that f opens belong to it.
func (ns *NS) Do(f func() error) error { return kernel.InNSAt(ns.Path, f) }

// Exec runs a program in the namespace and returns its standard output.
func (ns *NS) Exec(name string, args ...string) (string, error) {
	return ns.exec("", name, args...)
}

func (ns *NS) exec(stdin, name string, args ...string) (string, error) {
	var out, errOut bytes.Buffer
	err := ns.Do(func() error {
		cmd := exec.Command(name, args...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
		return cmd.Run()
	})
	if err != nil {
		return out.String(), fmt.Errorf("in %s: %s %s: %w: %s", ns.Name, name, strings.Join(args, " "), err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), nil
}

// Run is Exec for a command that must succeed.
func (ns *NS) Run(name string, args ...string) string {
	ns.t.Helper()
	out, err := ns.Exec(name, args...)
	if err != nil {
		ns.t.Fatal(err)
	}
	return out
}

// IP runs an `ip` command, given as one string.
func (ns *NS) IP(command string) string {
	ns.t.Helper()
	return ns.Run("ip", strings.Fields(command)...)
}

// IPs runs several `ip` commands in one process. It takes no options such as -6: ip derives the
// family from the addresses.
func (ns *NS) IPs(commands ...string) {
	ns.t.Helper()
	if _, err := ns.exec(strings.Join(commands, "\n")+"\n", "ip", "-batch", "-"); err != nil {
		ns.t.Fatal(err)
	}
}

// NFT loads an nftables ruleset.
func (ns *NS) NFT(ruleset string) {
	ns.t.Helper()
	if _, err := ns.exec(ruleset, "nft", "-f", "-"); err != nil {
		ns.t.Fatal(err)
	}
}

// Sysctl sets a value below /proc/sys/net of the namespace.
func (ns *NS) Sysctl(key, value string) {
	ns.t.Helper()
	err := ns.Do(func() error { return os.WriteFile(filepath.Join("/proc/sys/net", key), []byte(value), 0o644) })
	if err != nil {
		ns.t.Fatalf("in %s: set sysctl net/%s: %v", ns.Name, key, err)
	}
}

// ReadSysctl reads a value below /proc/sys/net of the namespace.
func (ns *NS) ReadSysctl(key string) string {
	ns.t.Helper()
	var value []byte
	err := ns.Do(func() (err error) {
		value, err = os.ReadFile(filepath.Join("/proc/sys/net", key))
		return err
	})
	if err != nil {
		ns.t.Fatalf("in %s: read sysctl net/%s: %v", ns.Name, key, err)
	}
	return strings.TrimSpace(string(value))
}

// Dial connects from the namespace; laddr may be "" or "address:port".
func (ns *NS) Dial(network, laddr, raddr string, timeout time.Duration) (net.Conn, error) {
	var conn net.Conn
	err := ns.Do(func() error {
		d := net.Dialer{Timeout: timeout}
		if laddr != "" {
			var err error
			if strings.HasPrefix(network, "udp") {
				d.LocalAddr, err = net.ResolveUDPAddr(network, laddr)
			} else {
				d.LocalAddr, err = net.ResolveTCPAddr(network, laddr)
			}
			if err != nil {
				return err
			}
		}
		var err error
		conn, err = d.Dial(network, raddr)
		return err
	})
	return conn, err
}

// Listen listens in the namespace until the test ends.
func (ns *NS) Listen(network, address string) net.Listener {
	ns.t.Helper()
	var l net.Listener
	err := ns.Do(func() error {
		var err error
		l, err = (&net.ListenConfig{}).Listen(context.Background(), network, address)
		return err
	})
	if err != nil {
		ns.t.Fatalf("in %s: listen on %s: %v", ns.Name, address, err)
	}
	ns.t.Cleanup(func() { _ = l.Close() })
	return l
}

// ListenPacket receives datagrams in the namespace until the test ends.
func (ns *NS) ListenPacket(network, address string) net.PacketConn {
	ns.t.Helper()
	var c net.PacketConn
	err := ns.Do(func() error {
		var err error
		c, err = (&net.ListenConfig{}).ListenPacket(context.Background(), network, address)
		return err
	})
	if err != nil {
		ns.t.Fatalf("in %s: listen on %s: %v", ns.Name, address, err)
	}
	ns.t.Cleanup(func() { _ = c.Close() })
	return c
}
