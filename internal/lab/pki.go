package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// pki is the cluster's certificate authority. Its certificates are valid for as long as a lab
// may run; the keys are ECDSA, which are fast to generate.
type pki struct {
	o    *Options
	now  time.Time
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	// pem is the authority's certificate.
	pem []byte
}

// subject describes the owner of a certificate.
type subject struct {
	cn, org string
	// server certificates have names and addresses; the others are for clients.
	server bool
	dns    []string
	ips    []netip.Addr
}

func newPKI(o *Options, now time.Time) (*pki, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's authority: %w", err)
	}
	p := &pki{o: o, now: now, key: key}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "terway-lab"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's authority: %w", err)
	}
	if p.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("make the cluster's authority: %w", err)
	}
	p.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := writeFile(p.path("ca.crt"), p.pem, 0o644); err != nil {
		return nil, err
	}
	return p, p.writeKey("ca.key", key)
}

func (p *pki) path(name string) string { return p.o.path("pki", name) }

func (p *pki) writeKey(name string, key *ecdsa.PrivateKey) error {
	b, err := keyPEM(key)
	if err != nil {
		return err
	}
	return writeFile(p.path(name), b, 0o600)
}

func keyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// issue signs a certificate and returns it and its key in PEM.
func (p *pki) issue(s subject) (cert, key []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key for %s: %w", s.cn, err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, fmt.Errorf("make a serial number for %s: %w", s.cn, err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: s.cn},
		NotBefore: p.now.Add(-time.Hour), NotAfter: p.now.AddDate(1, 0, 0),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		DNSNames:    s.dns,
	}
	if s.org != "" {
		tmpl.Subject.Organization = []string{s.org}
	}
	if s.server {
		tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	for _, ip := range s.ips {
		tmpl.IPAddresses = append(tmpl.IPAddresses, net.IP(ip.AsSlice()))
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, p.cert, k.Public(), p.key)
	if err != nil {
		return nil, nil, fmt.Errorf("sign the certificate of %s: %w", s.cn, err)
	}
	if key, err = keyPEM(k); err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key, nil
}

// files writes a certificate to <name>.crt and its key to <name>.key.
func (p *pki) files(name string, s subject) error {
	cert, key, err := p.issue(s)
	if err != nil {
		return err
	}
	if err := writeFile(p.path(name+".crt"), cert, 0o644); err != nil {
		return err
	}
	return writeFile(p.path(name+".key"), key, 0o600)
}

// kubeconfig writes a kubeconfig with a client certificate.
func (p *pki) kubeconfig(path, server string, s subject) error {
	cert, key, err := p.issue(s)
	if err != nil {
		return err
	}
	b, err := clientcmd.Write(api.Config{
		Clusters:       map[string]*api.Cluster{"lab": {Server: server, CertificateAuthorityData: p.pem}},
		AuthInfos:      map[string]*api.AuthInfo{s.cn: {ClientCertificateData: cert, ClientKeyData: key}},
		Contexts:       map[string]*api.Context{"lab": {Cluster: "lab", AuthInfo: s.cn}},
		CurrentContext: "lab",
	})
	if err != nil {
		return fmt.Errorf("encode the kubeconfig of %s: %w", s.cn, err)
	}
	return writeFile(path, b, 0o600)
}

// serviceAccountKeys makes the key pair that signs service account tokens.
func (p *pki) serviceAccountKeys() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make the service account key: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("encode the service account key: %w", err)
	}
	pub := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	if err := writeFile(p.path("sa.pub"), pub, 0o644); err != nil {
		return err
	}
	return p.writeKey("sa.key", key)
}
