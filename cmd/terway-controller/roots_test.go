package main

import (
	"crypto/x509"
	"os"
	"os/exec"
	"testing"
)

// The image has no certificates of authorities; without those in the program the cloud's API could not be verified.
func TestAuthoritiesAreKnownWithoutFiles(t *testing.T) {
	if os.Getenv("WITHOUT_FILES") == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestAuthoritiesAreKnownWithoutFiles$", "-test.v")
		cmd.Env = append(os.Environ(), "WITHOUT_FILES=1", "SSL_CERT_FILE=/nowhere", "SSL_CERT_DIR=/nowhere")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	pool, err := x509.SystemCertPool()
	if err != nil || pool.Equal(x509.NewCertPool()) {
		t.Errorf("no authority is known (%v)", err)
	}
}
