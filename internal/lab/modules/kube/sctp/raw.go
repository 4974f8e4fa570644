package sctp

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// again is how long an answer is awaited before a packet is sent anew.
	again = 200 * time.Millisecond
	// patience is how long the other end may be silent while it is called or sent to.
	patience = time.Minute
	// farewell is how long the other end may take to close.
	farewell = time.Second
	// largest is the size of the largest message: it fits in one packet of every network.
	largest = 1200
)

// network is a raw socket's: IPv4 alone, as the lab has nothing else.
var network = fmt.Sprintf("ip4:%d", protocol)

// end is one end of an association that is made here. It has a raw socket of its own, whose
// packets one goroutine reads.
type end struct {
	conn   *net.IPConn
	local  uint16 // port
	remote netip.AddrPort
	myTag  uint32
	// cookie is what the opening end must return: mine if I was called, theirs if I call.
	cookie []byte
	// called is set if the other end opens the association, and is told of it when it is open.
	called func(*end)
	// gone is told when the socket is closed.
	gone func(*end)

	writing sync.Mutex // one message at a time

	mu sync.Mutex
	// changed is closed, and made anew, whenever something below changes.
	changed  chan struct{}
	theirTag uint32
	open     bool
	failed   error
	// next is the number of my next message, acked that of my last one that the other end has,
	// received that of its last one that I have.
	next, acked, received uint32
	messages              uint16
	inbox                 [][]byte
	// leaving is set when Close is called, left when the other end closes; over when both know.
	leaving, left, over bool
	deadline            time.Time
}

// newEnd opens the socket; from may be the zero address.
func newEnd(from netip.Addr, local uint16, remote netip.AddrPort) (*end, error) {
	if !remote.Addr().Is4() {
		return nil, fmt.Errorf("%s: the kernel has no SCTP, and without it only IPv4 can be used", remote)
	}
	var laddr *net.IPAddr
	if from.IsValid() {
		laddr = &net.IPAddr{IP: from.AsSlice()}
	}
	conn, err := net.DialIP(network, laddr, &net.IPAddr{IP: remote.Addr().AsSlice()})
	if err != nil {
		return nil, err
	}
	e := &end{conn: conn, local: local, remote: remote, changed: make(chan struct{}), next: mathrand.Uint32()}
	for e.myTag == 0 {
		e.myTag = mathrand.Uint32()
	}
	e.acked = e.next - 1
	return e, nil
}

func dialRaw(to netip.AddrPort) (association, error) {
	e, err := newEnd(netip.Addr{}, uint16(32768+mathrand.IntN(28232)), to)
	if err != nil {
		return nil, err
	}
	go e.read()
	err = e.repeat(patience, func() bool { return e.cookie != nil }, func() []chunk {
		return []chunk{{kind: chunkInit, value: start{tag: e.myTag, tsn: e.next}.encode()}}
	})
	if err == nil {
		err = e.repeat(patience, func() bool { return e.open }, func() []chunk {
			return []chunk{{kind: chunkCookieEcho, value: e.cookie}}
		})
	}
	if err != nil {
		e.drop()
		return nil, err
	}
	return e, nil
}

// read handles packets until the socket is closed.
func (e *end) read() {
	b := make([]byte, window)
	for {
		n, _, err := e.conn.ReadFromIP(b)
		if err != nil {
			e.fail(err)
			return
		}
		if p, ok := decode(b[:n]); ok && p.from == e.remote.Port() && p.to == e.local && p.tag == e.myTag {
			e.handle(p)
		}
	}
}

func (e *end) fail(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failed == nil {
		e.failed = err
	}
	e.tell()
}

// tell wakes those that wait for a change; e.mu is held.
func (e *end) tell() {
	close(e.changed)
	e.changed = make(chan struct{})
}

func (e *end) handle(p *packet) {
	e.mu.Lock()
	defer e.mu.Unlock()
	defer e.tell()
	var answer []chunk
	acknowledge := false
	for _, c := range p.chunks {
		switch c.kind {
		case chunkInitAck:
			if s, ok := decodeStart(c.value); ok && s.cookie != nil && e.called == nil && e.cookie == nil {
				e.theirTag, e.received, e.cookie = s.tag, s.tsn-1, bytes.Clone(s.cookie)
			}
		case chunkCookieEcho:
			if e.called == nil || !bytes.Equal(c.value, e.cookie) {
				continue
			}
			answer = append(answer, chunk{kind: chunkCookieAck})
			if !e.open {
				e.open = true
				e.called(e)
			}
		case chunkCookieAck:
			e.open = true
		case chunkData:
			const before = 12 // the number, stream, its number and the payload's protocol
			if len(c.value) <= before {
				continue
			}
			if c.flags&wholeMessage != wholeMessage {
				e.failed = errors.New("the other end sent a part of a message")
				continue
			}
			acknowledge = true
			if binary.BigEndian.Uint32(c.value) == e.received+1 {
				e.received++
				e.inbox = append(e.inbox, bytes.Clone(c.value[before:]))
			}
		case chunkSack:
			e.acknowledged(c.value)
		case chunkHeartbeat:
			answer = append(answer, chunk{kind: chunkHeartbeatAck, value: bytes.Clone(c.value)})
		case chunkShutdown:
			e.acknowledged(c.value)
			e.left = true
			if e.leaving {
				answer = append(answer, chunk{kind: chunkShutdownAck})
			}
		case chunkShutdownAck:
			answer = append(answer, chunk{kind: chunkShutdownComplete})
			e.left, e.over = true, true
		case chunkShutdownComplete:
			e.over = true
		case chunkAbort:
			e.failed = syscall.ECONNRESET
			if !e.open {
				e.failed = syscall.ECONNREFUSED
			}
		}
	}
	if acknowledge {
		answer = append(answer, encodeSack(e.received))
	}
	if len(answer) > 0 {
		// What is lost is sent again by the other end.
		_ = e.send(answer...)
	}
}

// acknowledged reads the last number that the other end has.
func (e *end) acknowledged(b []byte) {
	if len(b) < 4 {
		return
	}
	if upTo := binary.BigEndian.Uint32(b); int32(upTo-e.acked) > 0 {
		e.acked = upTo
	}
}

// send sends one packet; e.mu is held.
func (e *end) send(chunks ...chunk) error {
	p := packet{from: e.local, to: e.remote.Port(), tag: e.theirTag, chunks: chunks}
	_, err := e.conn.Write(p.encode())
	return err
}

// repeat sends what the function returns until it is done, at most for a time.
func (e *end) repeat(limit time.Duration, done func() bool, what func() []chunk) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	until := time.Now().Add(limit)
	for !done() {
		switch {
		case e.failed != nil:
			return e.failed
		case time.Now().After(until):
			return os.ErrDeadlineExceeded
		}
		if err := e.send(what()...); err != nil {
			return err
		}
		e.wait(time.Now().Add(again), func() bool { return done() || e.failed != nil })
	}
	return nil
}

// wait waits for a condition, at most until a time if there is one; e.mu is held, and is not
// meanwhile.
func (e *end) wait(until time.Time, done func() bool) {
	var end <-chan time.Time
	if !until.IsZero() {
		t := time.NewTimer(time.Until(until))
		defer t.Stop()
		end = t.C
	}
	for !done() {
		changed := e.changed
		e.mu.Unlock()
		late := false
		select {
		case <-changed:
		case <-end:
			late = true
		}
		e.mu.Lock()
		if late {
			return
		}
	}
}

func (e *end) Read(b []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.wait(e.deadline, func() bool { return len(e.inbox) > 0 || e.left || e.failed != nil })
	switch {
	case len(e.inbox) > 0:
		n := copy(b, e.inbox[0])
		if e.inbox[0] = e.inbox[0][n:]; len(e.inbox[0]) == 0 {
			e.inbox = e.inbox[1:]
		}
		return n, nil
	case e.left:
		return 0, io.EOF
	case e.failed != nil:
		return 0, e.failed
	}
	return 0, os.ErrDeadlineExceeded
}

// Write returns when the other end has the message.
func (e *end) Write(b []byte) (int, error) {
	if len(b) == 0 || len(b) > largest {
		return 0, fmt.Errorf("a message of %d bytes: want 1 to %d", len(b), largest)
	}
	e.writing.Lock()
	defer e.writing.Unlock()
	e.mu.Lock()
	tsn, number := e.next, e.messages
	e.next++
	e.messages++
	e.mu.Unlock()
	err := e.repeat(patience, func() bool { return int32(e.acked-tsn) >= 0 }, func() []chunk {
		return []chunk{encodeData(tsn, number, b)}
	})
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close ends the association on both ends, or on this one alone if the other does not answer.
func (e *end) Close() error {
	e.mu.Lock()
	twice := e.leaving
	e.leaving = true
	e.mu.Unlock()
	if twice {
		return net.ErrClosed
	}
	if err := e.repeat(farewell, func() bool { return e.over }, func() []chunk {
		if e.left {
			return []chunk{{kind: chunkShutdownAck}}
		}
		return []chunk{{kind: chunkShutdown, value: binary.BigEndian.AppendUint32(nil, e.received)}}
	}); err != nil {
		e.mu.Lock()
		_ = e.send(chunk{kind: chunkAbort}) // it did not answer
		e.mu.Unlock()
	}
	e.drop()
	return nil
}

// drop closes the socket.
func (e *end) drop() {
	e.conn.Close()
	if e.gone != nil {
		e.gone(e)
	}
}

func (e *end) setReadDeadline(t time.Time) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.deadline = t
	return nil
}

func (e *end) peer() netip.AddrPort { return e.remote }

// listener hears of new associations; each has a socket of its own.
type listener struct {
	conn  *net.IPConn
	port  uint16
	queue chan *end
	// closed is closed with the socket.
	closed chan struct{}

	mu   sync.Mutex
	ends map[netip.AddrPort]*end
}

func listenRaw(at netip.AddrPort) (acceptor, error) {
	if !at.Addr().Is4() {
		return nil, fmt.Errorf("%s: the kernel has no SCTP, and without it only IPv4 can be used", at)
	}
	conn, err := net.ListenIP(network, &net.IPAddr{IP: at.Addr().AsSlice()})
	if err != nil {
		return nil, err
	}
	l := &listener{conn: conn, port: at.Port(), queue: make(chan *end, 128), closed: make(chan struct{}), ends: map[netip.AddrPort]*end{}}
	go l.read()
	return l, nil
}

func (l *listener) accept() (association, error) {
	select {
	case e := <-l.queue:
		return e, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error { return l.conn.Close() }

// read handles INIT, until the socket is closed.
func (l *listener) read() {
	b := make([]byte, window)
	for {
		// This call returns the IP header too, which has the address that the other end knows me by.
		n, _, _, _, err := l.conn.ReadMsgIP(b, nil)
		if err != nil {
			close(l.closed)
			return
		}
		const least = 20 // bytes of the header without options
		if n < least {
			continue
		}
		size := int(b[0]&0xf) * 4
		if size < least || size > n {
			continue
		}
		p, ok := decode(b[size:n])
		if !ok || p.to != l.port || len(p.chunks) != 1 || p.chunks[0].kind != chunkInit {
			continue
		}
		if s, ok := decodeStart(p.chunks[0].value); ok {
			l.start(netip.AddrFrom4([4]byte(b[16:20])), netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[12:16])), p.from), s)
		}
	}
}

// start answers INIT. One that comes again gets the same answer.
func (l *listener) start(me netip.Addr, from netip.AddrPort, s start) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.ends[from]
	if e == nil || e.theirTag != s.tag {
		var err error
		if e, err = newEnd(me, l.port, from); err != nil {
			return // it comes again
		}
		e.theirTag, e.received = s.tag, s.tsn-1
		e.cookie = make([]byte, 32)
		rand.Read(e.cookie)
		e.called, e.gone = l.opened, l.forget
		l.ends[from] = e
		go e.read()
		time.AfterFunc(patience, func() {
			e.mu.Lock()
			never := !e.open
			e.mu.Unlock()
			if never {
				e.drop()
			}
		})
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	_ = e.send(chunk{kind: chunkInitAck, value: start{tag: e.myTag, tsn: e.next, cookie: e.cookie}.encode()})
}

// opened queues an association that is open; when too many wait, it is not accepted.
func (l *listener) opened(e *end) {
	select {
	case l.queue <- e:
	default:
		e.failed = syscall.ECONNABORTED
	}
}

func (l *listener) forget(e *end) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ends[e.remote] == e {
		delete(l.ends, e.remote)
	}
}
