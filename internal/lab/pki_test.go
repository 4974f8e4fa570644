package lab

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/netip"
	"os"
	"testing"
	"time"
)

func TestCertificatesServeOnlyWhatTheyAreFor(t *testing.T) {
	o := testOptions(t)
	p, err := newPKI(o, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr("192.168.0.7")
	if err := p.files("server", subject{cn: "server", server: true, dns: []string{"kubernetes"}, ips: []netip.Addr{addr}}); err != nil {
		t.Fatal(err)
	}
	if err := p.files("client", subject{cn: "somebody", org: "system:nodes"}); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(p.pem)
	load := func(name string) *x509.Certificate {
		t.Helper()
		if _, err := tls.LoadX509KeyPair(p.path(name+".crt"), p.path(name+".key")); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		b, err := os.ReadFile(p.path(name + ".crt"))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(b)
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	server, client := load("server"), load("client")
	verify := func(c *x509.Certificate, name string, use x509.ExtKeyUsage) error {
		_, err := c.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, KeyUsages: []x509.ExtKeyUsage{use}})
		return err
	}
	for _, name := range []string{"kubernetes", addr.String()} {
		if err := verify(server, name, x509.ExtKeyUsageServerAuth); err != nil {
			t.Errorf("server certificate for %s: %v", name, err)
		}
	}
	if err := verify(client, "", x509.ExtKeyUsageClientAuth); err != nil {
		t.Errorf("client certificate: %v", err)
	}
	if verify(server, "", x509.ExtKeyUsageClientAuth) == nil || verify(client, "", x509.ExtKeyUsageServerAuth) == nil {
		t.Error("a certificate is valid for a wrong use")
	}
	if got := client.Subject.Organization; len(got) != 1 || got[0] != "system:nodes" {
		t.Errorf("client certificate of group %v", got)
	}
}
