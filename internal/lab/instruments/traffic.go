package instruments

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/internal/kernel"
)

const (
	// TrafficPort is the port of the pods' echoes.
	TrafficPort = 9000
	// connectionsEach is the number of lasting connections to each address.
	connectionsEach = 4
	// silence is how long an answer may take before the connection counts as lost.
	silence = 5 * time.Second
	// udpPeriod gives a stream of 1 kHz.
	udpPeriod = time.Millisecond
)

// Traffic runs between pods, on sockets in their network namespaces.
type Traffic struct {
	done    chan struct{}
	clients sync.WaitGroup
	echoes  Echoes

	connections        int
	exchanges          atomic.Int64
	made               atomic.Int64
	udpSent, udpGot    atomic.Int64
	mu                 sync.Mutex
	lost, refused, bad []string
}

// StartTraffic sends from a pod to echoes in other pods, and to a Service in front of the last
// if there is one.
func StartTraffic(from corev1.Pod, to []corev1.Pod, service string) (*Traffic, error) {
	t := &Traffic{done: make(chan struct{})}
	client, err := PodNetNS(from)
	if err != nil {
		return nil, err
	}
	var addresses []string
	if service != "" {
		addresses = append(addresses, service)
	}
	for _, p := range to {
		addresses = append(addresses, p.Status.PodIP)
		server, err := PodNetNS(p)
		if err == nil {
			err = t.echoes.Serve(server)
		}
		if err != nil {
			t.Stop()
			return nil, err
		}
	}
	dial := func(network, address string) (conn net.Conn, err error) {
		err = kernel.InNSAt(client, func() error {
			conn, err = net.DialTimeout(network, net.JoinHostPort(address, strconv.Itoa(TrafficPort)), silence)
			return err
		})
		return conn, err
	}
	for _, a := range addresses {
		for range connectionsEach {
			conn, err := dialPatiently(dial, a)
			if err != nil {
				t.Stop()
				return nil, err
			}
			t.connections++
			t.clients.Go(func() { t.talk(conn) })
		}
		t.clients.Go(func() { t.renew(dial, a) })
	}
	udp, err := dial("udp", to[len(to)-1].Status.PodIP)
	if err != nil {
		t.Stop()
		return nil, err
	}
	t.clients.Go(func() { t.stream(udp) })
	return t, nil
}

// dialPatiently waits until kube-proxy has programmed the Service.
func dialPatiently(dial func(network, address string) (net.Conn, error), address string) (conn net.Conn, err error) {
	for deadline := time.Now().Add(2 * silence); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if conn, err = dial("tcp", address); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// PodNetNS returns the network namespace of a running pod, found by one of its processes.
func PodNetNS(pod corev1.Pod) (string, error) {
	uid := string(pod.UID)
	groups, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return "", err
	}
	for _, file := range groups {
		// The process may have ended meanwhile.
		text, err := os.ReadFile(file)
		if err == nil && (strings.Contains(string(text), uid) || strings.Contains(string(text), strings.ReplaceAll(uid, "-", "_"))) {
			return filepath.Join(filepath.Dir(file), "ns", "net"), nil
		}
	}
	return "", fmt.Errorf("no process of pod %s is found", pod.Name)
}

// Echoes are echo servers at TrafficPort of network namespaces, by TCP and UDP.
type Echoes struct{ servers []io.Closer }

// Serve starts a server in a network namespace.
func (s *Echoes) Serve(netns string) error {
	return kernel.InNSAt(netns, func() error {
		at := fmt.Sprintf(":%d", TrafficPort)
		l, err := net.Listen("tcp", at)
		if err != nil {
			return err
		}
		s.servers = append(s.servers, l)
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return // closed
				}
				go func() {
					defer conn.Close()
					_, _ = io.Copy(conn, conn)
				}()
			}
		}()
		u, err := net.ListenPacket("udp", at)
		if err != nil {
			return err
		}
		s.servers = append(s.servers, u)
		go func() {
			buf := make([]byte, 64)
			for {
				n, peer, err := u.ReadFrom(buf)
				if err != nil {
					return // closed
				}
				_, _ = u.WriteTo(buf[:n], peer)
			}
		}()
		return nil
	})
}

// Close stops all servers.
func (s *Echoes) Close() {
	for _, l := range s.servers {
		_ = l.Close()
	}
}

func (t *Traffic) stopped() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

func (t *Traffic) note(list *[]string, conn, what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	*list = append(*list, conn+": "+what)
}

// ask sends a request and checks the answer.
func ask(conn net.Conn) error {
	buf := []byte("is anybody there?")
	if err := conn.SetDeadline(time.Now().Add(silence)); err != nil {
		return err
	}
	if _, err := conn.Write(buf); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, buf)
	return err
}

// talk uses one connection continuously.
func (t *Traffic) talk(conn net.Conn) {
	defer conn.Close()
	for !t.stopped() {
		if err := ask(conn); err != nil {
			t.note(&t.lost, conn.RemoteAddr().String(), err.Error())
			return
		}
		t.exchanges.Add(1)
		time.Sleep(5 * time.Millisecond)
	}
}

// renew opens one connection after another.
func (t *Traffic) renew(dial func(network, address string) (net.Conn, error), address string) {
	for !t.stopped() {
		conn, err := dial("tcp", address)
		if err == nil {
			err = errors.Join(ask(conn), conn.Close())
		}
		if err != nil {
			t.note(&t.refused, address, err.Error())
		}
		t.made.Add(1)
		time.Sleep(50 * time.Millisecond)
	}
}

// stream sends numbered datagrams at a constant rate and counts the answers.
func (t *Traffic) stream(conn net.Conn) {
	var reader sync.WaitGroup
	reader.Go(func() {
		buf := make([]byte, 64)
		for {
			if _, err := conn.Read(buf); err != nil {
				if t.stopped() {
					return // closed, below
				}
				t.note(&t.bad, "UDP", err.Error())
				continue
			}
			t.udpGot.Add(1)
		}
	})
	tick := time.NewTicker(udpPeriod)
	defer tick.Stop()
	for number := uint64(0); !t.stopped(); number++ {
		if _, err := conn.Write(binary.BigEndian.AppendUint64(nil, number)); err != nil {
			t.note(&t.bad, "UDP", err.Error())
		}
		t.udpSent.Add(1)
		<-tick.C
	}
	time.Sleep(silence / 10) // wait for the last answers
	_ = conn.Close()
	reader.Wait()
}

// TrafficReport is the result of the traffic.
type TrafficReport struct {
	connections, exchanges, made, sent, lost int64
	dead, refused, bad                       []string
}

// Stop stops the traffic and returns its result.
func (t *Traffic) Stop() TrafficReport {
	close(t.done)
	t.clients.Wait()
	t.echoes.Close()
	return TrafficReport{int64(t.connections), t.exchanges.Load(), t.made.Load(), t.udpSent.Load(), t.udpSent.Load() - t.udpGot.Load(), t.lost, t.refused, t.bad}
}

// String formats all numbers on one line.
func (r TrafficReport) String() string {
	return fmt.Sprintf("%d connections with %d exchanges, %d lost; %d new connections, %d failed; of %d UDP packets %d lost (%.3f %%)",
		r.connections, r.exchanges, len(r.dead), r.made, len(r.refused), r.sent, r.lost, 100*float64(r.lost)/float64(max(r.sent, 1)))
}

// LostNone returns an error if a datagram was lost.
func (r TrafficReport) LostNone() error {
	if r.lost == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d UDP packets were lost", r.lost, r.sent)
}

// Err returns all failures: lost lasting connections, failed new ones, socket errors, or no
// traffic at all. A lost datagram is no error.
func (r TrafficReport) Err() error {
	var errs []error
	for _, list := range [][]string{r.dead, r.refused, r.bad} {
		for _, l := range list {
			errs = append(errs, errors.New(l))
		}
	}
	if r.exchanges == 0 || r.made == 0 || r.sent == 0 {
		errs = append(errs, errors.New("no traffic flowed: nothing was tested"))
	}
	return errors.Join(errs...)
}
