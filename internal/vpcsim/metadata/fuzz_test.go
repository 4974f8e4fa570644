package metadata

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
)

// Any request gets a text, or a status that says why not.
func FuzzRequests(f *testing.F) {
	for _, x := range [][3]string{
		{"GET", "/latest/meta-data/network/interfaces/macs/00:16:3e:00:00:01/gateway", ""}, {"GET", "", ""},
		{"GET", "//latest//Ram/security-credentials/Terway-Role/", "x"}, {"PUT", "/latest/api/token", "99"}, {"HEAD", "/latest/user-data", "AAAA"},
		{"GET", "/LATEST/META-DATA/RAM/SECURITY-CREDENTIALS/\u212aelvin", ""},
	} {
		f.Add(x[0], x[1], x[2])
	}
	h := service(f)
	f.Fuzz(func(t *testing.T, method, path, header string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Method, r.URL = method, &url.URL{Path: path}
		r.Header.Set(tokenHeader, header)
		r.Header.Set(ttlHeader, header)
		if status, text := h.answer(r); status < 200 || status == http.StatusInternalServerError || status != http.StatusOK && text == "" {
			t.Errorf("%s %q with %q: %d %q", method, path, header, status, text)
		}
	})
}
