package verify

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"terway.dev/terway/internal/lab"
)

func TestFramesAreReadAsTheyAreWritten(t *testing.T) {
	addr := rapid.Custom(func(t *rapid.T) netip.Addr {
		return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "address")))
	})
	rapid.Check(t, func(t *rapid.T) {
		src, dst, port := addr.Draw(t, "src"), addr.Draw(t, "dst"), rapid.Uint16().Draw(t, "port")
		b := udpFrame(net.HardwareAddr{2, 0, 0, 0, 0, 1}, src, dst, port)
		f, ok := parseFrame(b)
		want := frame{etherType: unix.ETH_P_IP, proto: unix.IPPROTO_UDP, src: src, dst: dst, dstPort: port, length: len(b)}
		if !ok || f != want {
			t.Fatalf("read %+v (%t), want %+v", f, ok, want)
		}
		// The header's checksum makes the sum of its words all ones (RFC 1071).
		sum := uint32(0)
		for i := 14; i < 34; i += 2 {
			sum += uint32(b[i])<<8 | uint32(b[i+1])
		}
		for sum>>16 != 0 {
			sum = sum&0xffff + sum>>16
		}
		if sum != 0xffff {
			t.Fatalf("the header's checksum is wrong: sum %#x", sum)
		}
	})
}

func TestRuntsAreNoFrames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 0, 80).Draw(t, "bytes")
		parseFrame(b) // must not read beyond the end
		if len(b) < 14 {
			if _, ok := parseFrame(b); ok {
				t.Fatalf("%d bytes were taken for a frame", len(b))
			}
		}
	})
}

func TestTunnelsAreSeen(t *testing.T) {
	for _, tt := range []struct {
		frame frame
		want  bool
	}{
		{frame{proto: unix.IPPROTO_TCP, dstPort: 4789}, false},
		{frame{proto: unix.IPPROTO_UDP, dstPort: 53}, false},
		{frame{proto: unix.IPPROTO_UDP, dstPort: 4789}, true},
		{frame{proto: unix.IPPROTO_UDP, dstPort: 8472}, true},
		{frame{proto: unix.IPPROTO_UDP, dstPort: 6081}, true},
		{frame{proto: unix.IPPROTO_IPIP}, true},
		{frame{proto: unix.IPPROTO_GRE}, true},
	} {
		if got := tt.frame.tunnelled(); got != tt.want {
			t.Errorf("%+v tunnelled: %t, want %t", tt.frame, got, tt.want)
		}
	}
}

func TestSelect(t *testing.T) {
	all := Checks()
	for _, network := range []string{lab.NetworkTerway, lab.NetworkFlannel} {
		run, not, err := Select(network, nil, true)
		slow := 0
		for _, c := range all {
			if _, other := c.NotFor[network]; c.Slow && !other {
				slow++
			}
		}
		if err != nil || len(run)+len(not)+slow != len(all) || len(run) == 0 {
			t.Fatalf("%s: no name picks %d checks and leaves %d out, %d of all %d are slow, %v", network, len(run), len(not), slow, len(all), err)
		}
		for _, n := range not {
			if n.Why == "" || n.Network != network {
				t.Errorf("%s: no reason: %+v", network, n)
			}
		}
	}
	usual, _, err := Select(lab.NetworkTerway, nil, false)
	if err != nil || slices.ContainsFunc(usual, func(c Check) bool { return c.Trouble }) {
		t.Errorf("without being asked for, checks of trouble run, %v", err)
	}
	if two, _, err := Select(lab.NetworkTerway, []string{"stale-cloud", "address-taken-away"}, false); err != nil || len(two) != 2 {
		t.Errorf("a check of trouble and a slow one by name: %v, %v", two, err)
	}
	picked, _, err := Select(lab.NetworkTerway, []string{"dns", "release"}, false)
	if err != nil || len(picked) != 2 || picked[0].Name != "dns" || picked[1].Name != "release" {
		t.Errorf("picked %v, %v", picked, err)
	}
	if _, _, err := Select(lab.NetworkTerway, []string{"nosuch"}, false); err == nil || !strings.Contains(err.Error(), "pod-limit") {
		t.Errorf("an unknown name: error %v, want one that lists the checks", err)
	}
	if _, _, err := Select(lab.NetworkFlannel, []string{"no-spoofing"}, false); err == nil || !strings.Contains(err.Error(), "NET_ADMIN") {
		t.Errorf("a check that is not for the network: error %v, want the reason", err)
	}
	names := map[string]bool{}
	for _, c := range all {
		if names[c.Name] || c.About == "" || c.Run == nil {
			t.Errorf("check %q is there twice or incomplete", c.Name)
		}
		names[c.Name] = true
	}
}

func TestAccountsSayWhatIsWrong(t *testing.T) {
	good := account{node: "n", pods: []string{"a"}, used: []string{"a"}, spec: []string{"a", "b", "c"}, cloud: []string{"a", "b", "c"}, devices: 1, min: 1, max: 3}
	if w := good.wrong(); w != "" {
		t.Fatalf("a good account is wrong: %s", w)
	}
	for name, spoil := range map[string]func(*account){
		"the agent says":     func(a *account) { a.used = nil },
		"the cloud has":      func(a *account) { a.cloud = append(slices.Clone(a.cloud), "d") },
		"devices for":        func(a *account) { a.devices = 2 },
		"at most":            func(a *account) { a.max = 1 },
		"at least":           func(a *account) { a.min = 3 },
		"controller lets it": func(a *account) { a.spec = nil },
	} {
		a := good
		spoil(&a)
		if w := a.wrong(); !strings.Contains(w, name) {
			t.Errorf("spoiled account: %q, want something with %q", w, name)
		}
	}
}
