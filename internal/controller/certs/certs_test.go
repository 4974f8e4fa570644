package certs

import (
	"bytes"
	"crypto/x509"
	"maps"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const host = "terway-webhook.ns.svc"

var server = Server{Name: "terway-webhook", Host: host}

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Whatever is in the Secret, and however late Turn is called: afterwards there is one certificate
// to serve and a next one, both trusted, and nothing more to do. If Turn was called in time, no
// client is refused: what is served was trusted before, and what was served before is still
// trusted.
func TestTurn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := start
		data := map[string][]byte{}
		inOrder := true // nothing was damaged, and nobody away for long
		for range rapid.IntRange(1, 8).Draw(t, "rounds") {
			before := maps.Clone(data)
			damaged := rapid.IntRange(0, 4).Draw(t, "damage") == 0
			for _, key := range []string{keyCert, keyKey, keyNextCert, keyNextKey, Trust} {
				if !damaged {
					break
				}
				switch rapid.IntRange(0, 4).Draw(t, key) {
				case 0:
					delete(data, key)
				case 1:
					data[key] = []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
				case 2:
					data[key] = before[keyNextCert]
				}
			}
			away := time.Duration(rapid.Int64Range(int64(TurnEvery/3), int64(TurnEvery)).Draw(t, "away"))
			if rapid.IntRange(0, 4).Draw(t, "for long") == 0 {
				away = time.Duration(rapid.Int64Range(0, int64(2*lifetime)).Draw(t, "away for long"))
			}
			inOrder = inOrder && !damaged && away < TurnEvery
			now = now.Add(away)
			out, why, err := server.Turn(data, now)
			if err != nil {
				t.Fatal(err)
			}
			served, err := pair{out[keyCert], out[keyKey]}.use(host, now)
			if err != nil {
				t.Fatalf("nothing to serve: %v", err)
			}
			next, err := pair{out[keyNextCert], out[keyNextKey]}.use(host, now)
			if err != nil {
				t.Fatalf("nothing to come: %v", err)
			}
			if served.Leaf.Equal(next.Leaf) && !damaged {
				t.Fatal("the next certificate is the one that is served")
			}
			left, good := due(served, next).Sub(now), served.Leaf.NotAfter.Sub(now)
			if left <= 0 || left > TurnEvery {
				t.Fatalf("the next turn is in %s", left)
			}
			if good < left && good > 24*time.Hour {
				t.Fatalf("the next turn is in %s, what is served is good for %s", left, good)
			}
			for _, c := range []*x509.Certificate{served.Leaf, next.Leaf} {
				if !trusts(out[Trust], c, now) {
					t.Fatalf("the API server would refuse %s", c.SerialNumber)
				}
			}
			if _, again, err := server.Turn(out, now); err != nil || again != "" {
				t.Fatalf("after %q once more: %q, %v", why, again, err)
			}
			if len(before) > 0 && !damaged && away < TurnEvery {
				if !trusts(before[Trust], served.Leaf, now) {
					t.Fatalf("what is served now was not trusted before (%s)", why)
				}
				old, err := pair{before[keyCert], before[keyKey]}.use(host, now)
				if err != nil && inOrder {
					t.Fatalf("what was served before is good no more (%s, %v)", why, err)
				}
				if err == nil && !trusts(out[Trust], old.Leaf, now) {
					t.Fatalf("what was served before is trusted no more (%s)", why)
				}
			}
			data = out
		}
	})
}

// trusts reports whether the API server, with those certificates, accepts another.
func trusts(bundle []byte, c *x509.Certificate, now time.Time) bool {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	_, err := c.Verify(x509.VerifyOptions{Roots: roots, DNSName: host, CurrentTime: now})
	return err == nil
}

func TestTurnOfAnotherName(t *testing.T) {
	data, _, err := Server{Name: server.Name, Host: "terway-webhook.other.svc"}.Turn(nil, start)
	if err != nil {
		t.Fatal(err)
	}
	out, why, err := server.Turn(data, start)
	if err != nil || why == "" || bytes.Equal(out[keyCert], data[keyCert]) {
		t.Errorf("a certificate for another namespace is served: %q, %v", why, err)
	}
}

// Anybody with access may write anything into the Secret: no contents make the controller panic,
// and the API server never gets a bundle that it cannot read.
func FuzzBundle(f *testing.F) {
	p, err := server.newPair(start)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{})
	f.Add(p.cert)
	f.Add(p.key)
	f.Add(append(bytes.Clone(p.key), p.cert...))
	f.Add(append([]byte("words\n"), append(bytes.Clone(p.cert), p.cert...)...))
	f.Add(p.cert[:len(p.cert)/2])
	f.Fuzz(func(t *testing.T, data []byte) {
		out := bundle(start, data, p.cert)
		if !x509.NewCertPool().AppendCertsFromPEM(out) || !bytes.Contains(out, p.cert) || bytes.Count(out, p.cert) != 1 {
			t.Errorf("the bundle is %q", out)
		}
		if again := bundle(start, out); !bytes.Equal(again, out) {
			t.Errorf("read again it is %q, was %q", again, out)
		}
		if bytes.Contains(out, []byte("PRIVATE KEY")) {
			t.Error("the bundle holds a key")
		}
	})
}
