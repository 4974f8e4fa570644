package alibaba

import (
	"net/netip"
	"testing"

	"terway.dev/terway/internal/cloud"
)

// NLB lists only the backends that are not healthy. An answer that does not speak of the listener says of no backend that
// it is.
func TestHealthOfNLB(t *testing.T) {
	t.Parallel()
	a, b := cloud.BackendKey{Server: "eni-1", Address: netip.MustParseAddr("10.0.0.1"), Port: 80}, cloud.BackendKey{Server: "eni-1", Address: netip.MustParseAddr("10.0.0.2"), Port: 80}
	for name, tc := range map[string]struct {
		body string
		a, b bool
	}{
		"one is not": {`{"ListenerHealthStatus":[{"ListenerId":"lsn-1","ServerGroupInfos":[{"ServerGroupId":"sgp-1","NonNormalServers":[{"ServerId":"eni-1","ServerIp":"10.0.0.1","Port":80,"Status":"Initial","Reason":{"ReasonCode":"CONNECT_TIMEOUT"}}]}]}]}`, false, true},
		"all are":    {`{"ListenerHealthStatus":[{"ListenerId":"lsn-1","ServerGroupInfos":[]}]}`, true, true},
		"nothing":    {`{"ListenerHealthStatus":[]}`, false, false},
		"another":    {`{"ListenerHealthStatus":[{"ListenerId":"lsn-2","ServerGroupInfos":[]}]}`, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeCloud(t, in(ok(tc.body)))
			c := newTestClient(t, f, func(cfg *Config) { cfg.NLBEndpoint = f.URL })
			h, err := c.NLB().Health(t.Context(), cloud.Listener{ID: "lsn-1"})
			if err != nil || (h.Of(a) == "") != tc.a || (h.Of(b) == "") != tc.b {
				t.Errorf("%+v, %v", h, err)
			}
		})
	}
}
