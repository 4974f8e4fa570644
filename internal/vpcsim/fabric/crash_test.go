package fabric_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

func (w *world) inSwitch(args ...string) string {
	w.t.Helper()
	out, err := exec.Command("nsenter", append([]string{"--net=/run/netns/" + w.opts.Prefix + "fabric"}, args...)...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("in the switch: %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestUnfinishedWorkOfACrashIsRedone(t *testing.T) {
	w := newWorld(t, nil)
	w.instance(1)
	w.instance(2)
	w.apply()
	if err := w.f.Close(); err != nil {
		t.Fatal(err)
	}
	// The process was killed after it made a veth and before it marked it, and after it made a
	// namespace's file and before it mounted the namespace.
	_, port, err := w.f.PortDevice("eni-2")
	if err != nil {
		t.Fatal(err)
	}
	w.inSwitch("ip", "link", "set", port, "alias", "")
	if err := os.WriteFile("/run/netns/"+w.opts.Prefix+"i-3", nil, 0o444); err != nil {
		t.Fatal(err)
	}
	w.f = w.open()
	w.instance(3)
	w.apply()
	w.mustPing(1, "10.1.0.2")
	w.mustPing(3, "10.1.0.2")
	if out := w.run(2, "ip", "-o", "link"); strings.Count(out, "\n") != 2 {
		t.Errorf("devices of i-2: %s", out)
	}
	if out := w.inSwitch("ip", "-o", "link"); strings.Count(out, "\n") != 4 {
		t.Errorf("devices of the switch: %s", out)
	}
}

func TestDeviceThatTheGuestDeletedComesBack(t *testing.T) {
	w := newWorld(t, nil)
	w.instance(1)
	w.instance(2)
	w.apply()
	w.run(2, "ip", "link", "del", "eth0")
	w.apply()
	w.mustPing(1, "10.1.0.2")
}

func TestMapsOfAnotherFormAreNotAdopted(t *testing.T) {
	w := newWorld(t, nil)
	w.instance(1)
	w.instance(2)
	w.apply()
	// Without the anchor the maps cannot be found: this is like maps of another form.
	w.inSwitch("tc", "qdisc", "del", "dev", "lo", "clsact")
	if err := w.f.Close(); err != nil {
		t.Fatal(err)
	}
	w.f = w.open()
	w.apply()
	w.mustPing(1, "10.1.0.2")
	w.mustPing(2, "10.1.0.1")
}
