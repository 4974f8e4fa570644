//go:build bench

package fabric_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/testutil"
	"terway.dev/terway/internal/vpcsim/fabric"
)

// TestThroughputAgainstPlainVeth prints the cost of the fabric: iperf3 between two of its
// instances, and over a plain veth pair, alternately. It asserts nothing; make bench-fabric
// runs it.
func TestThroughputAgainstPlainVeth(t *testing.T) {
	w := newWorld(t, nil)
	w.instance(1)
	w.instance(2)
	w.apply()
	w.mustPing(1, "10.1.0.2")
	a, b := testutil.NewNS(t, "a"), testutil.NewNS(t, "b")
	a.IP("link add eth0 type veth peer name eth0 netns " + b.Path)
	a.IP("addr add 10.1.0.1/24 dev eth0")
	b.IP("addr add 10.1.0.2/24 dev eth0")
	a.IP("link set eth0 up")
	b.IP("link set eth0 up")

	for _, m := range []struct {
		name  string
		flags []string
		unit  string
		value func(iperf) float64
	}{
		{"TCP stream", nil, "Gbit/s", func(r iperf) float64 { return r.End.SumReceived.BitsPerSecond / 1e9 }},
		{"TCP stream, 1 KiB writes, no delay", []string{"-l", "1K", "-N"}, "Gbit/s", func(r iperf) float64 { return r.End.SumReceived.BitsPerSecond / 1e9 }},
		{"UDP 64 B", []string{"-u", "-b", "0", "-l", "64"}, "kpps", func(r iperf) float64 {
			return float64(r.End.Sum.Packets-r.End.Sum.LostPackets) / r.End.Sum.Seconds / 1e3
		}},
	} {
		var ours, plain []float64
		for range 3 {
			ours = append(ours, m.value(runIperf(t, w.ns(1), w.ns(2), "10.1.0.2", m.flags)))
			plain = append(plain, m.value(runIperf(t, a.Path, b.Path, "10.1.0.2", m.flags)))
		}
		slices.Sort(ours)
		slices.Sort(plain)
		t.Logf("%s: fabric %.2f, veth %.2f %s (medians of 3), ratio %.2f; all %.2f %.2f", m.name, ours[1], plain[1], m.unit, ours[1]/plain[1], ours, plain)
	}
	var ours, plain []float64
	for range 5 {
		ours = append(ours, roundTrips(t, w.ns(1), w.ns(2), "10.1.0.2"))
		plain = append(plain, roundTrips(t, a.Path, b.Path, "10.1.0.2"))
	}
	slices.Sort(ours)
	slices.Sort(plain)
	t.Logf("TCP request/response: fabric %.0f, veth %.0f per second (medians of 5), ratio %.2f", ours[2], plain[2], ours[2]/plain[2])

	// The run time of the program; measuring it has a cost, so it comes last.
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		t.Fatal(err)
	}
	defer stats.Close()
	roundTrips(t, w.ns(1), w.ns(2), "10.1.0.2")
	_, programs := kernelState(t, w.opts.Prefix)
	for id := range programs {
		p, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue
		}
		if s, err := p.Stats(); err == nil && s.RunCount > 1000 {
			t.Logf("program %d: %d runs of %d ns", id, s.RunCount, s.Runtime.Nanoseconds()/int64(s.RunCount))
		}
		p.Close()
	}
}

// TestThroughputThroughABalancer prints what a load balancer costs: the same client and server,
// directly and through a balancer's address, alternately. It asserts nothing.
func TestThroughputThroughABalancer(t *testing.T) {
	w := newWorld(t, nil)
	w.instance(1)
	w.instance(2)
	b := fabric.Balancer{ID: "lb-1", VPC: "vpc-1", Addresses: []fabric.BalancerAddress{{Address: addr(privateVIP)}}}
	// New connections have a server each: one that closes first is in TIME_WAIT, in which it refuses
	// the same client port by the other way, whose timestamps are others.
	for port, to := range map[uint16]uint16{5201: 5201, 7009: 7009, 7010: 7011} {
		b.Listeners = append(b.Listeners, fabric.Listener{
			ID: fmt.Sprint("lb-1/tcp/", port), Protocol: tcp, Port: port,
			Backends: []fabric.Backend{{Address: netip.AddrPortFrom(addr("10.1.0.2"), to), Weight: 100, Healthy: true}},
		})
	}
	w.top.Balancers = []fabric.Balancer{b}
	w.apply()
	w.mustPing(1, "10.1.0.2")
	for _, m := range []struct {
		name, unit string
		goal       float64
		measure    func(address string) float64
	}{
		{"TCP stream", "Gbit/s", 0.9, func(a string) float64 {
			return runIperf(t, w.ns(1), w.ns(2), a, nil).End.SumReceived.BitsPerSecond / 1e9
		}},
		{"round trips of a kept connection", "per second", 0.9, func(a string) float64 { return roundTrips(t, w.ns(1), w.ns(2), a) }},
		{"new connections", "per second", 0.8, func(a string) float64 { return newConnections(t, w.ns(1), w.ns(2), a) }},
	} {
		var direct, balanced []float64
		for range 5 {
			direct = append(direct, m.measure("10.1.0.2"))
			balanced = append(balanced, m.measure(privateVIP))
		}
		slices.Sort(direct)
		slices.Sort(balanced)
		t.Logf("load balancer, %s: %.2f, direct %.2f %s (medians of 5), ratio %.2f (goal %.1f); all %.2f %.2f",
			m.name, balanced[2], direct[2], m.unit, balanced[2]/direct[2], m.goal, balanced, direct)
	}
}

// newConnections returns the number of connections per second that are made, carry a byte each
// way, and are closed.
func newConnections(t *testing.T, from, to, address string) float64 {
	t.Helper()
	for _, port := range []string{"7010", "7011"} {
		var l net.Listener
		if err := kernel.InNSAt(to, func() (err error) {
			l, err = net.Listen("tcp", "0.0.0.0:"+port)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				b := make([]byte, 1)
				if _, err := c.Read(b); err == nil {
					_, _ = c.Write(b)
				}
				c.Close()
			}
		}()
	}
	n := 0
	start := time.Now()
	if err := kernel.InNSAt(from, func() error {
		for b := []byte{1}; time.Since(start) < time.Second; n++ {
			c, err := net.Dial("tcp", address+":7010")
			if err != nil {
				return err
			}
			if _, err := c.Write(b); err != nil {
				return err
			}
			if _, err := c.Read(b); err != nil {
				return err
			}
			c.Close()
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return float64(n) / time.Since(start).Seconds()
}

type iperf struct {
	End struct {
		SumReceived struct {
			BitsPerSecond float64 `json:"bits_per_second"`
		} `json:"sum_received"`
		Sum struct {
			Packets     int     `json:"packets"`
			LostPackets int     `json:"lost_packets"`
			Seconds     float64 `json:"seconds"`
		} `json:"sum"`
	} `json:"end"`
}

// runIperf sends from one namespace to address, behind which the other one serves.
func runIperf(t *testing.T, from, to, address string, flags []string) (out iperf) {
	t.Helper()
	server := exec.Command("nsenter", "--net="+to, "iperf3", "-s", "-1", "--forceflush")
	stdout, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	if _, err := stdout.Read(buf); err != nil { // its banner: it listens
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			if _, err := stdout.Read(buf); err != nil {
				return
			}
		}
	}()
	args := append([]string{"--net=" + from, "iperf3", "-c", address, "-t", "2", "-J"}, flags...)
	raw, err := exec.Command("nsenter", args...).Output()
	if err != nil {
		t.Fatalf("iperf3: %v %s", err, raw)
	}
	<-done
	_ = server.Wait()
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// roundTrips returns the number of one-byte round trips per second.
func roundTrips(t *testing.T, from, to, address string) float64 {
	t.Helper()
	c := connectNS(t, from, to, address+":7009")
	defer c.close()
	go func() {
		b := make([]byte, 1)
		for {
			if _, err := c.server.Read(b); err != nil {
				return
			}
			if _, err := c.server.Write(b); err != nil {
				return
			}
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	b, n := []byte{1}, 0
	start := time.Now()
	for ctx.Err() == nil {
		if _, err := c.client.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := c.client.Read(b); err != nil {
			t.Fatal(err)
		}
		n++
	}
	return float64(n) / time.Since(start).Seconds()
}

func connectNS(t *testing.T, from, to, address string) *connection {
	t.Helper()
	var l net.Listener
	c := &connection{t: t}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	if err := kernel.InNSAt(to, func() (err error) {
		l, err = net.Listen("tcp", "0.0.0.0:"+port)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := kernel.InNSAt(from, func() (err error) {
		c.client, err = net.Dial("tcp", address)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if c.server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return c
}
