package suite

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"terway.dev/terway/internal/testutil"
)

// Echo answers on a port of each of the pod's addresses, TCP and UDP, with what it gets.
func (p *Pod) Echo(port int) {
	for _, a := range p.Spec.Addresses {
		echo(p.NS, At(a, port))
		go reflect(p.ListenPacket("udp", At(a, port)))
	}
}

// Echo does so on the node's addresses.
func (n *Node) Echo(port int) {
	for _, a := range []netip.Addr{n.V4, n.V6} {
		echo(n.NS, At(a, port))
		go reflect(n.ListenPacket("udp", At(a, port)))
	}
}

// echo sends back what it gets, on each TCP connection until the test ends.
func echo(ns *testutil.NS, address string) { go acceptAll(ns.Listen("tcp", address)) }

func copyBack(conn net.Conn) {
	defer conn.Close()
	_, _ = io.Copy(conn, conn)
}

// bulk sends megabytes to an echo and wants them back as they were: large packets pass
// whole or in parts, with good checksums.
func bulk(t testing.TB, from *testutil.NS, address string) {
	t.Helper()
	conn, err := from.Dial("tcp", "", address, Patience)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * Patience)); err != nil {
		t.Error(err)
		return
	}
	const size = 4 << 20
	sent, got := sha256.New(), sha256.New()
	failed := make(chan error, 1)
	go func() {
		source := rand.NewChaCha8([32]byte{byte(size >> 20)})
		_, err := io.CopyN(io.MultiWriter(conn, sent), source, size)
		failed <- err
	}()
	_, err = io.CopyN(got, conn, size)
	if err := errors.Join(err, <-failed); err != nil {
		t.Errorf("%s → %s: %v", from.Name, address, err)
		return
	}
	if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		t.Errorf("%s → %s: what came back is not what was sent", from.Name, address)
	}
}

func bulkArrivesWhole(t *testing.T, k Kit) {
	_, n0, n1 := servicesWorld(t, k)
	a, near, far := n0.AddPod(1, "4", "6"), n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
	for _, n := range []*Node{n0, n1} {
		echo(n.NS, At(n.V4, 7))
	}
	n0.KubeProxy(Service{ClusterIP: ClusterIP, Port: 7, Endpoint: far.V4})
	for _, p := range []*Pod{near, far} {
		echo(p.NS, At(p.V4, 7))
		echo(p.NS, At(p.V6, 7))
		bulk(t, a.NS, At(p.V4, 7))
		bulk(t, a.NS, At(p.V6, 7))
		bulk(t, n0.NS, At(p.V4, 7))
	}
	bulk(t, a.NS, At(n0.V4, 7))
	bulk(t, a.NS, At(n1.V4, 7))
	bulk(t, a.NS, At(ClusterIP, 7))
}

// Talking exchanges a line again and again until it is stopped; each must be answered.
type Talking struct {
	name string
	conn net.Conn
	stop chan struct{}
	n    atomic.Int64
	err  error
	wg   sync.WaitGroup
}

// StartTalk connects to an echo and begins.
func StartTalk(t testing.TB, from *testutil.NS, network, address string) *Talking {
	t.Helper()
	conn, err := from.Dial(network, "", address, Patience)
	if err != nil {
		t.Fatal(err)
	}
	return talkOn(fmt.Sprintf("%s %s → %s", network, from.Name, address), conn)
}

// StartTalkFrom does so by TCP from a port that other connections may have too.
func StartTalkFrom(t testing.TB, from *testutil.NS, source, address string) *Talking {
	t.Helper()
	conn, err := sharing(from, source, address)
	if err != nil {
		t.Fatal(err)
	}
	return talkOn(fmt.Sprintf("%s (%s) → %s", from.Name, source, address), conn)
}

func talkOn(name string, conn net.Conn) *Talking {
	k := &Talking{name: name, conn: conn, stop: make(chan struct{})}
	k.wg.Go(func() {
		buf := make([]byte, 4)
		for k.err == nil {
			select {
			case <-k.stop:
				return
			default:
			}
			if k.err = conn.SetDeadline(time.Now().Add(Patience)); k.err == nil {
				if _, k.err = conn.Write([]byte("ping")); k.err == nil {
					_, k.err = io.ReadFull(conn, buf)
				}
			}
			k.n.Add(1)
		}
	})
	return k
}

// More waits until there were so many more exchanges, or none will come.
func (k *Talking) More(exchanges int64) {
	start := k.n.Load()
	for deadline := time.Now().Add(2 * Patience); k.n.Load() < start+exchanges && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
}

// Talk is so many exchanges on one connection.
func Talk(t testing.TB, from *testutil.NS, network, address string, exchanges int64) {
	t.Helper()
	k := StartTalk(t, from, network, address)
	k.More(exchanges)
	k.End(t)
}

// End stops it and says what went wrong.
func (k *Talking) End(t testing.TB) {
	t.Helper()
	close(k.stop)
	k.wg.Wait()
	if k.err != nil {
		t.Errorf("%s: after %d exchanges: %v", k.name, k.n.Load(), k.err)
	}
	if err := k.conn.Close(); err != nil {
		t.Error(err)
	}
}

// The agent restarts, again and again, and connections of all kinds do not notice: not
// one request of TCP or UDP goes unanswered.
func restartInMidTraffic(t *testing.T, k Kit) {
	w, n0, n1 := servicesWorld(t, k)
	a, near, far := n0.AddPod(1, "4", "6"), n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
	n0.KubeProxy(Service{ClusterIP: ClusterIP, Port: 7, NodePort: 30007, Endpoint: far.V4})
	for _, p := range []*Pod{a, near, far} {
		echo(p.NS, At(p.V4, 7))
		echo(p.NS, At(p.V6, 7))
		go reflect(p.ListenPacket("udp", At(p.V4, 7)))
	}
	talks := []*Talking{
		StartTalk(t, a.NS, "tcp", At(near.V4, 7)), StartTalk(t, a.NS, "tcp", At(far.V4, 7)),
		StartTalk(t, a.NS, "tcp", At(near.V6, 7)), StartTalk(t, a.NS, "tcp", At(far.V6, 7)),
		StartTalk(t, far.NS, "tcp", At(a.V4, 7)), StartTalk(t, n0.NS, "tcp", At(a.V4, 7)),
		StartTalk(t, a.NS, "tcp", At(ClusterIP, 7)), StartTalk(t, w.Outside, "tcp", At(n0.V4, 30007)),
		StartTalk(t, a.NS, "udp", At(near.V4, 7)), StartTalk(t, far.NS, "udp", At(a.V4, 7)),
	}
	for _, k := range talks {
		k.More(20)
	}
	for range 5 {
		n0.DP = n0.NewDatapath()
		n0.Sync(a, near)
		// Others come and go meanwhile.
		n0.AddPod(1, "4", "6").Del()
	}
	for _, k := range talks {
		k.End(t)
	}
}

// Datagrams larger than the MTU, between small ones.
func fragmentsArrive(t *testing.T, k Kit) {
	_, n0, n1 := servicesWorld(t, k)
	a, near, far := n0.AddPod(1, "4", "6"), n0.AddPod(1, "4", "6"), n1.AddPod(1, "4", "6")
	for _, to := range []*Pod{near, far} {
		for _, address := range []netip.Addr{to.V4, to.V6} {
			go reflect(to.ListenPacket("udp", At(address, 7)))
			conn, err := a.Dial("udp", "", At(address, 7), Patience)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			buf := make([]byte, 65536)
			for _, size := range []int{100, 4000, 100, 20000, 1473, 100} {
				sent := bytes.Repeat([]byte{byte(size)}, size)
				if err := conn.SetDeadline(time.Now().Add(Patience)); err != nil {
					t.Fatal(err)
				}
				if _, err := conn.Write(sent); err != nil {
					t.Fatal(err)
				}
				n, err := conn.Read(buf)
				if err != nil || !bytes.Equal(buf[:n], sent) {
					t.Errorf("to %s: %d bytes went, %d came back: %v", address, size, n, err)
				}
			}
		}
	}
}
