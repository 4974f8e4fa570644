package traffic

import (
	"net/netip"
	"testing"
	"time"

	"terway.dev/terway/internal/testutil"
)

func path(t *testing.T) Path {
	a, b := testutil.NewNS(t, "a"), testutil.NewNS(t, "b")
	a.IP("link add eth0 type veth peer name eth0 netns " + b.Path)
	a.IP("addr add 10.1.0.1/24 dev eth0")
	b.IP("addr add 10.1.0.2/24 dev eth0")
	a.IP("addr add 10.1.0.3/24 dev eth0")
	b.IP("addr add 10.1.0.4/24 dev eth0")
	a.IP("link set eth0 up")
	b.IP("link set eth0 up")
	return Path{Client: a, Server: b, Address: netip.MustParseAddr("10.1.0.2")}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// Every measurement over a plain veth: it measures traffic, and fails if there is none.
func TestMeasurements(t *testing.T) {
	p := path(t)
	const window = 50 * time.Millisecond
	measure := map[string]func() (float64, error){
		"stream":      func() (float64, error) { x, err := p.Stream(1, window); return x.Bits, err },
		"8 streams":   func() (float64, error) { x, err := p.Stream(8, window); return x.Bits, err },
		"latency":     func() (float64, error) { x, err := p.RoundTrips(window); return float64(min(x.P50, x.P99)), err },
		"packets":     func() (float64, error) { x, err := p.Packets(window); return min(x.PerSecond, x.CPU), err },
		"established": func() (float64, error) { x, err := p.EstablishedPackets(window); return x.PerSecond, err },
		"connections": func() (float64, error) { return p.Connections(window) },
		"connections between several": func() (float64, error) {
			several := p
			several.Peers, several.Sources = []netip.Addr{p.Address, addr("10.1.0.4")}, []netip.Addr{addr("10.1.0.1"), addr("10.1.0.3")}
			return several.Connections(window)
		},
	}
	for name, f := range measure {
		if v, err := f(); err != nil || v <= 0 {
			t.Errorf("%s: %v, %v", name, v, err)
		}
	}
	p.Server.NFT("table inet t {\nchain c {\ntype filter hook input priority 0; policy drop;\n}\n}")
	for _, name := range []string{"stream", "packets"} {
		if v, err := measure[name](); err == nil {
			t.Errorf("%s with all packets dropped: %v, want an error", name, v)
		}
	}
}

func TestMachineTimeGoesOn(t *testing.T) {
	before, err := machineTime()
	if err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); time.Since(start) < 100*time.Millisecond; {
	}
	after, err := machineTime()
	if err != nil || after <= before {
		t.Errorf("from %v to %v (%v) while a processor was at work", before, after, err)
	}
}

// A Meter counts frames as on a wire, whatever the kernel keeps in one packet.
func TestMeter(t *testing.T) {
	p := path(t)
	p.Congestion = "reno"
	meters := map[Way]*Meter{}
	for way, ns := range map[Way]*testutil.NS{Out: p.Client, In: p.Server} {
		m, err := NewMeter(ns, "eth0")
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		meters[way] = m
	}
	read := func(way Way) Counted {
		c, err := meters[way].Read(way)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	const datagram = 1472
	for name, start := range map[string]func() (*Load, error){
		"streams":   func() (*Load, error) { return p.Streams(2) },
		"datagrams": func() (*Load, error) { return p.Datagrams(datagram, 2000) },
	} {
		for _, m := range meters {
			if err := m.Reset(); err != nil {
				t.Fatal(err)
			}
		}
		l, err := start()
		if err != nil {
			t.Fatal(err)
		}
		for l.Received() < 1<<20 {
			time.Sleep(time.Millisecond)
		}
		l.Stop()
		// Full frames have 1514 bytes, of which 1448 are TCP's payload (with time stamps).
		payload := float64(datagram)
		if name == "streams" {
			payload = 1448
		}
		in, out := read(In), read(Out)
		// A stream's last bytes are not read any more.
		if in.Bytes < uint64(float64(l.Received())/payload*1514*0.999) || in.Bytes != out.Bytes || in.Frames != out.Frames {
			t.Errorf("%s: %d bytes arrived, counted %+v on the way out and %+v on the way in", name, l.Received(), out, in)
		}
		if size := float64(in.Bytes) / float64(in.Frames); size < 1450 || size > 1514 {
			t.Errorf("%s: frames of %.0f bytes", name, size)
		}
		if in.First == 0 || in.Early == 0 || in.Early > in.Bytes || name == "datagrams" && in.Early > in.Bytes*2/3 {
			t.Errorf("%s: counted %+v", name, in)
		}
	}
}
