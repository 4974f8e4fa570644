package sctp

import (
	"encoding/hex"
	"errors"
	"io"
	"os"
	"sync"
	"testing"
	"time"
)

// The checksum of 32 bytes of zeros by CRC32c is 0x8a9136aa (RFC 3720, B.4): the code must
// compute it over the packet with its own place zero, and write its lowest byte first.
func TestPackets(t *testing.T) {
	p := packet{from: 1, to: 9003, tag: 0x01020304, chunks: []chunk{{kind: chunkInit, value: start{tag: 7, tsn: 8, cookie: []byte("abcde")}.encode()}, encodeData(9, 1, []byte("hello"))}}
	b := p.encode()
	if len(b)%4 != 0 {
		t.Errorf("%d bytes are no multiple of 4", len(b))
	}
	got, ok := decode(b)
	if !ok || got.from != p.from || got.to != p.to || got.tag != p.tag || len(got.chunks) != 2 {
		t.Fatalf("%s is read as %+v, %t", hex.EncodeToString(b), got, ok)
	}
	if s, ok := decodeStart(got.chunks[0].value); !ok || s.tag != 7 || s.tsn != 8 || string(s.cookie) != "abcde" {
		t.Errorf("INIT is read as %+v, %t", s, ok)
	}
	for i := range b {
		broken := append([]byte(nil), b...)
		broken[i] ^= 1
		if _, ok := decode(broken); ok {
			t.Errorf("byte %d changed, and the checksum still holds", i)
		}
	}
	if zeros := checksum(make([]byte, 32)); zeros != 0x8a9136aa {
		t.Errorf("checksum of zeros %#x", zeros)
	}
}

// FuzzPackets: whatever comes, reading it does not fail, and what is read can be written.
func FuzzPackets(f *testing.F) {
	f.Add((&packet{from: 1, to: 2, tag: 3, chunks: []chunk{encodeSack(4)}}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, ok := decode(b); ok {
			for _, c := range p.chunks {
				decodeStart(c.value)
			}
			if again, ok := decode(p.encode()); !ok || len(again.chunks) != len(p.chunks) {
				t.Errorf("%+v was written and is read as %+v, %t", p, again, ok)
			}
		}
	})
}

// Many clients at once talk to two servers in one network namespace, as in a pod with two
// containers: each hears its own server and no other.
func TestAssociations(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	serve := func(port, answer string) {
		addr, err := ResolveSCTPAddr("sctp", "127.0.0.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		l, err := ListenSCTP("sctp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.AcceptSCTP()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					b := make([]byte, 100)
					if n, err := c.Read(b); err == nil {
						c.Write([]byte(answer + " " + string(b[:n])))
					}
				}()
			}
		}()
	}
	serve("9003", "three")
	serve("9005", "five")
	var wg sync.WaitGroup
	for port, answer := range map[string]string{"9003": "three", "9005": "five"} {
		addr, err := ResolveSCTPAddr("sctp", "127.0.0.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			wg.Go(func() {
				c, err := DialSCTP("sctp", nil, addr)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := c.Write([]byte("me")); err != nil {
					t.Error(err)
				}
				b := make([]byte, 100)
				n, err := c.Read(b)
				if string(b[:n]) != answer+" me" {
					t.Errorf("port %s says %q, %v", port, b[:n], err)
				}
				if _, err := c.Read(b); !errors.Is(err, io.EOF) {
					t.Errorf("after the last message: %v", err)
				}
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()

	// This server waits for a message, and says nothing before.
	silent, err := ResolveSCTPAddr("sctp", "127.0.0.1:9003")
	if err != nil {
		t.Fatal(err)
	}
	c, err := DialSCTP("sctp", nil, silent)
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a server that waits for me: %v", err)
	}
	c.Close()
}
