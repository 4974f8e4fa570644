// Package certs renews the self-signed certificates of servers that run in several replicas: the
// admission webhook and the policy hub. They are in a Secret of each, which all replicas read and write; no replica leads.
//
// It is pure: it takes the Secret's data and the time, and returns the data as it must be. Clients
// must always trust every certificate that some replica may still serve.
package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// The Secret holds two self-signed certificates with their keys: the one that is served and the
// next one, which clients trust long before it is served. So a turn needs no wait, and no client is
// refused during one.
const (
	keyCert, keyKey         = corev1.TLSCertKey, corev1.TLSPrivateKeyKey
	keyNextCert, keyNextKey = "next.crt", "next.key"
	// Trust is the key of all certificates that clients must trust, in PEM: both, and earlier ones
	// until they expire, because a replica may not have seen the turn yet.
	Trust = "ca.crt"
)

const (
	// TurnEvery is the age at which the next certificate becomes the one that is served.
	// It is retired at twice that age at most.
	TurnEvery = 180 * 24 * time.Hour
	// lifetime leaves another TurnEvery to a server that was not running.
	lifetime = 3 * TurnEvery
	// early is how far the clocks of clients and server may differ.
	early = time.Hour
)

// Server describes the server of the certificates.
type Server struct {
	// Name is the certificates' common name, for people.
	Name string
	// Host is the DNS name that clients use.
	Host string
}

// pair is a certificate with its key, in PEM.
type pair struct{ cert, key []byte }

// use returns the pair for TLS, or an error if it must not be served at that time.
func (p pair) use(host string, now time.Time) (*tls.Certificate, error) {
	c, err := tls.X509KeyPair(p.cert, p.key)
	if err != nil {
		return nil, err
	}
	if err := c.Leaf.VerifyHostname(host); err != nil {
		return nil, err
	}
	if now.Before(c.Leaf.NotBefore) || !now.Before(c.Leaf.NotAfter) {
		return nil, fmt.Errorf("the certificate is good from %s to %s", c.Leaf.NotBefore, c.Leaf.NotAfter)
	}
	return &c, nil
}

// newPair makes a self-signed certificate: it is its own authority, and its key cannot sign others.
func (s Server) newPair(now time.Time) (pair, error) {
	fail := func(err error) (pair, error) { return pair{}, fmt.Errorf("make a certificate for %s: %w", s.Host, err) }
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fail(err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return fail(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: s.Name}, DNSNames: []string{s.Host},
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

// Turn returns the Secret's data as it must be at a time, whatever it is now; why is what was
// changed, empty if nothing.
func (s Server) Turn(data map[string][]byte, now time.Time) (out map[string][]byte, why string, err error) {
	served, next := pairs(data)
	old, bad := served.use(s.Host, now)
	coming, badNext := next.use(s.Host, now)
	renew := func(p *pair) {
		if err == nil {
			*p, err = s.newPair(now)
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
	case !now.Before(due(old, coming)):
		why = "it was due: the next one is served"
		served = next
		renew(&next)
	}
	if err != nil {
		return nil, "", err
	}
	trust := bundle(now, data[Trust], served.cert, next.cert)
	if why == "" && !bytes.Equal(trust, data[Trust]) {
		why = "the list of trusted certificates was not complete"
	}
	return map[string][]byte{keyCert: served.cert, keyKey: served.key, keyNextCert: next.cert, keyNextKey: next.key, Trust: trust}, why, nil
}

// Serving returns the certificate to serve at a time, and until when: the next Turn is due then. It
// is an error if the data is not what Turn has returned for that time.
func (s Server) Serving(data map[string][]byte, now time.Time) (*tls.Certificate, time.Time, error) {
	p, n := pairs(data)
	served, err := p.use(s.Host, now)
	next, errNext := n.use(s.Host, now)
	if err := errors.Join(err, errNext); err != nil {
		return nil, time.Time{}, err
	}
	return served, due(served, next), nil
}

// Renewed is what Renew did.
type Renewed struct {
	// Certificate is to be served until Due, when it is time to renew again.
	Certificate *tls.Certificate
	Due         time.Time
	// Why the Secret was written; empty: it was not.
	Why string
}

// Renew takes the Secret's data, has it written if it must be other data at that time, then has clients told what they must trust, in
// PEM, and returns what is to be served. Each step follows from the one before, so a kill between them does
// no harm. Who writes must notice that another replica was faster, and return an error.
func (s Server) Renew(data map[string][]byte, now time.Time, write func(map[string][]byte) error, trust func([]byte) error) (out Renewed, err error) {
	data, why, err := s.Turn(data, now)
	if err != nil {
		return out, err
	}
	if why != "" {
		if err := write(data); err != nil {
			return out, err
		}
		out.Why = why
	}
	if err := trust(data[Trust]); err != nil {
		return out, err
	}
	out.Certificate, out.Due, err = s.Serving(data, now)
	return out, err
}

func pairs(data map[string][]byte) (served, next pair) {
	return pair{data[keyCert], data[keyKey]}, pair{data[keyNextCert], data[keyNextKey]}
}

// due is when the next certificate is to be served: when the served one reaches its age, or earlier
// if that would retire it too late, as when its successor was lost and made again; but not before
// everybody trusts the next one.
func due(served, next *tls.Certificate) time.Time {
	made := next.Leaf.NotBefore.Add(early)
	at := made.Add(TurnEvery)
	if late := served.Leaf.NotAfter.Add(-TurnEvery); late.Before(at) {
		at = late
	}
	if heard := made.Add(24 * time.Hour); at.Before(heard) {
		at = heard
	}
	return at
}

// bundle joins certificates in PEM, each once, without expired ones and without what is not a
// certificate.
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
