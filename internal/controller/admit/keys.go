package admit

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// The Secret holds two self-signed certificates with their keys: the one that is served
// and the next one, which the API server trusts long before it is needed. So a turn
// needs no waiting and nobody is refused during one.
const (
	keyCert, keyKey         = corev1.TLSCertKey, corev1.TLSPrivateKeyKey
	keyNextCert, keyNextKey = "next.crt", "next.key"
	// keyTrust is all that the API server shall trust: both, and those that were served
	// before until they expire, for a replica may not have heard of a turn yet.
	keyTrust = "ca.crt"
)

const (
	// turnEvery is the age at which the next certificate becomes the one that is served.
	// It is retired at twice that age at most.
	turnEvery = 180 * 24 * time.Hour
	// lifetime leaves a controller that was away another turnEvery.
	lifetime = 3 * turnEvery
	// early is how far the clocks of API server and controller may differ.
	early = time.Hour
)

// pair is a certificate with its key, in PEM.
type pair struct{ cert, key []byte }

// use is the pair as TLS needs it; an error if it is not fit to be served at that time.
func (p pair) use(name string, now time.Time) (*tls.Certificate, error) {
	c, err := tls.X509KeyPair(p.cert, p.key)
	if err != nil {
		return nil, err
	}
	if err := c.Leaf.VerifyHostname(name); err != nil {
		return nil, err
	}
	if now.Before(c.Leaf.NotBefore) || !now.Before(c.Leaf.NotAfter) {
		return nil, fmt.Errorf("the certificate is good from %s to %s", c.Leaf.NotBefore, c.Leaf.NotAfter)
	}
	return &c, nil
}

// newPair makes a certificate that signs itself: it is its own authority, and its key
// can make no other certificate that anybody trusts.
func newPair(name string, now time.Time) (pair, error) {
	fail := func(err error) (pair, error) { return pair{}, fmt.Errorf("make a certificate for %s: %w", name, err) }
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fail(err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return fail(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: Name}, DNSNames: []string{name},
		NotBefore: now.Add(-early), NotAfter: now.Add(lifetime),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return fail(err)
	}
	der8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fail(err)
	}
	return pair{
		cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der8}),
	}, nil
}

// turn is the Secret's data as it must be at a time, whatever it is now; why says what
// was done to it and is empty if it is right already.
func turn(data map[string][]byte, name string, now time.Time) (out map[string][]byte, why string, err error) {
	served, next := pair{data[keyCert], data[keyKey]}, pair{data[keyNextCert], data[keyNextKey]}
	s, bad := served.use(name, now)
	n, badNext := next.use(name, now)
	renew := func(p *pair) {
		if err == nil {
			*p, err = newPair(name, now)
		}
	}
	switch {
	case bad != nil && badNext != nil:
		why = fmt.Sprintf("there is none to serve (%v)", bad)
		renew(&served)
		renew(&next)
	case badNext != nil:
		why = fmt.Sprintf("there is no next one (%v)", badNext)
		renew(&next)
	case bad != nil:
		why = fmt.Sprintf("the one that was served cannot be (%v): the next one is", bad)
		served = next
		renew(&next)
	case !now.Before(due(s, n)):
		why = "its time has come: the next one is served"
		served = next
		renew(&next)
	}
	if err != nil {
		return nil, "", err
	}
	trust := bundle(now, data[keyTrust], served.cert, next.cert)
	if why == "" && !bytes.Equal(trust, data[keyTrust]) {
		why = "what the API server shall trust was not complete"
	}
	return map[string][]byte{keyCert: served.cert, keyKey: served.key, keyNextCert: next.cert, keyNextKey: next.key, keyTrust: trust}, why, nil
}

// due is when the next certificate is to be served: at its age, or sooner if the one that is
// served would be retired too late otherwise, as when its successor was lost and made anew;
// but not before everybody has heard of it.
func due(served, next *tls.Certificate) time.Time {
	made := next.Leaf.NotBefore.Add(early)
	at := made.Add(turnEvery)
	if late := served.Leaf.NotAfter.Add(-turnEvery); late.Before(at) {
		at = late
	}
	if heard := made.Add(24 * time.Hour); at.Before(heard) {
		at = heard
	}
	return at
}

// bundle joins certificates in PEM, each once, without those that have expired and
// without what is no certificate.
func bundle(now time.Time, parts ...[]byte) []byte {
	var seen [][]byte
	var out bytes.Buffer
	for _, part := range parts {
		for {
			var b *pem.Block
			if b, part = pem.Decode(part); b == nil {
				break
			}
			c, err := x509.ParseCertificate(b.Bytes)
			if b.Type != "CERTIFICATE" || err != nil || now.After(c.NotAfter) || slices.ContainsFunc(seen, func(s []byte) bool { return bytes.Equal(s, b.Bytes) }) {
				continue
			}
			seen = append(seen, b.Bytes)
			out.Write(pem.EncodeToMemory(&pem.Block{Type: b.Type, Bytes: b.Bytes}))
		}
	}
	return out.Bytes()
}
