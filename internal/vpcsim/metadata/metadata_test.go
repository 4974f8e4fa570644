package metadata

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/vpcsim/openapi/sts"
	"terway.dev/terway/internal/vpcsim/state"
)

type bench struct {
	*Handler
	now  time.Time
	what *Instance
}

func service(t testing.TB) *bench {
	t.Helper()
	account, err := sts.NewAccount("1234567890123456", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	typ, ok := catalog.Lookup("ecs.g7.xlarge")
	if !ok {
		t.Fatal("no ecs.g7.xlarge in the catalog")
	}
	b := &bench{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	sw := state.VSwitch{VSwitchId: "vsw-1", CidrBlock: netip.MustParsePrefix("192.168.32.0/24"), Ipv6CidrBlock: netip.MustParsePrefix("fd00:1::/64")}
	old := state.VSwitch{VSwitchId: "vsw-2", CidrBlock: netip.MustParsePrefix("192.168.48.0/20")}
	b.what = &Instance{
		Instance: state.Instance{
			InstanceId: "i-1", HostName: "node-1", InstanceType: "ecs.g7.xlarge", RegionId: "cn-hangzhou", ZoneId: "cn-hangzhou-i",
			VpcId: "vpc-1", VSwitchId: "vsw-1", PrimaryIpAddress: netip.MustParseAddr("192.168.32.9"), RamRoleName: "Terway-Role",
			UserData: base64.StdEncoding.EncodeToString([]byte("#!/bin/sh\n")),
			NetworkInterfaces: []state.NetworkInterface{
				{NetworkInterfaceId: "eni-1", MacAddress: "00:16:3e:00:00:01", VpcId: "vpc-1", VSwitchId: "vsw-1",
					PrimaryIpAddress: netip.MustParseAddr("192.168.32.9"), PrivateIpAddresses: []netip.Addr{netip.MustParseAddr("192.168.32.9")},
					Ipv6Addresses: []netip.Addr{netip.MustParseAddr("fd00:1::a"), netip.MustParseAddr("fd00:1::b")}},
				{NetworkInterfaceId: "eni-2", Slot: 1, MacAddress: "00:16:3e:00:00:02", VpcId: "vpc-1", VSwitchId: "vsw-2",
					PrimaryIpAddress:   netip.MustParseAddr("192.168.48.2"),
					PrivateIpAddresses: []netip.Addr{netip.MustParseAddr("192.168.48.2"), netip.MustParseAddr("192.168.48.3")}},
			},
		},
		Type: typ, VPC: state.VPC{VpcId: "vpc-1", CidrBlock: netip.MustParsePrefix("192.168.0.0/16")},
		VSwitches: map[string]state.VSwitch{"vsw-1": sw, "vsw-2": old}, OwnerID: "1234567890123456",
	}
	b.Handler = New(Options{
		InstanceID: "i-1", Lookup: func(string) (*Instance, error) { return b.what, nil },
		Authority: sts.NewAuthority(account), Now: func() time.Time { return b.now }, Log: slog.New(slog.DiscardHandler),
	})
	return b
}

func (b *bench) do(method, path string, header ...string) (int, string) {
	r := httptest.NewRequest(method, "http://100.100.100.200"+path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	b.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func TestFacts(t *testing.T) {
	b := service(t)
	macs := "/latest/meta-data/network/interfaces/macs/"
	for path, want := range map[string]string{
		"/latest/meta-data/instance-id":                    "i-1",
		"/2016-01-01/meta-data/instance-id":                "i-1",
		"/latest/meta-data/instance/instance-type":         "ecs.g7.xlarge",
		"/latest/meta-data/instance/max-netbw-egress":      "3072000",
		"/latest/meta-data/region-id":                      "cn-hangzhou",
		"/latest/meta-data/zone-id":                        "cn-hangzhou-i",
		"/latest/meta-data/vpc-id":                         "vpc-1",
		"/latest/meta-data/vpc-cidr-block":                 "192.168.0.0/16",
		"/latest/meta-data/vswitch-cidr-block":             "192.168.32.0/24",
		"/latest/meta-data/mac":                            "00:16:3e:00:00:01",
		"/latest/meta-data/private-ipv4":                   "192.168.32.9",
		macs:                                               "00:16:3e:00:00:01/\n00:16:3e:00:00:02/",
		macs + "00:16:3e:00:00:02/network-interface-id":    "eni-2",
		macs + "00:16:3E:00:00:02/network-interface-id":    "eni-2",
		macs + "00:16:3e:00:00:02/private-ipv4s":           `["192.168.48.2","192.168.48.3"]`,
		macs + "00:16:3e:00:00:02/primary-ip-address":      "192.168.48.2",
		macs + "00:16:3e:00:00:01/gateway":                 "192.168.32.253",
		macs + "00:16:3e:00:00:02/gateway":                 "192.168.63.253",
		macs + "00:16:3e:00:00:02/netmask":                 "255.255.240.0",
		macs + "00:16:3e:00:00:02/vswitch-cidr-block":      "192.168.48.0/20",
		macs + "00:16:3e:00:00:01/ipv6s":                   "[fd00:1::a, fd00:1::b]",
		macs + "00:16:3e:00:00:01/vswitch-ipv6-cidr-block": "fd00:1::/64",
		"/latest/user-data":                                "#!/bin/sh\n",
		"/latest/meta-data/ram/security-credentials/":      "Terway-Role",
		"/latest/meta-data/Ram/security-credentials/":      "Terway-Role",
		"/latest/meta-data/ntp-conf/":                      "ntp-servers",
	} {
		if status, got := b.do("GET", path); status != 200 || got != want {
			t.Errorf("%s: %d %q, want %q", path, status, got, want)
		}
	}
	for _, path := range []string{"/latest/meta-data/nothing", "/oldest/meta-data/mac", macs + "00:16:3e:00:00:02/ipv6s",
		macs + "00:16:3e:00:00:02/ipv6-gateway", "/latest/meta-data/ram/security-credentials/other-role", "/latest/meta-data/eipv4"} {
		if status, _ := b.do("GET", path); status != 404 {
			t.Errorf("%s: %d, want 404", path, status)
		}
	}
	if status, _ := b.do("POST", "/latest/meta-data/mac"); status != 405 {
		t.Errorf("POST: %d", status)
	}
	var document map[string]string
	if _, text := b.do("GET", "/latest/dynamic/instance-identity/document"); json.Unmarshal([]byte(text), &document) != nil || document["instance-id"] != "i-1" {
		t.Errorf("identity document %v", document)
	}
}

func TestInstanceWithoutRoleOrGone(t *testing.T) {
	b := service(t)
	b.what.RamRoleName = ""
	if status, _ := b.do("GET", "/latest/meta-data/ram/security-credentials/"); status != 404 {
		t.Errorf("no role: %d, want 404", status)
	}
	b.what.HttpEndpoint = "disabled"
	if status, _ := b.do("GET", "/latest/meta-data/mac"); status != 403 {
		t.Errorf("disabled: %d, want 403", status)
	}
	b.what = nil
	if status, _ := b.do("GET", "/latest/meta-data/mac"); status != 404 {
		t.Errorf("gone: %d, want 404", status)
	}
}

func TestTokens(t *testing.T) {
	b := service(t)
	get := func(token string) int {
		status, _ := b.do("GET", "/latest/meta-data/mac", tokenHeader, token)
		return status
	}
	status, token := b.do("PUT", "/latest/api/token", ttlHeader, "60")
	if status != 200 || get(token) != 200 || get(token) != 200 {
		t.Errorf("a fresh token: PUT %d, GET %d", status, get(token))
	}
	if got := get(""); got != 200 {
		t.Errorf("no token where none is needed: %d", got)
	}
	b.what.HttpTokens = "required"
	if got := get(""); got != 403 {
		t.Errorf("no token where one is required: %d", got)
	}
	if got := get(token[:len(token)-4] + "AAAA"); got != 401 {
		t.Errorf("a forged token: %d", got)
	}
	other := New(b.Options)
	other.InstanceID = "i-2"
	r := httptest.NewRequest("GET", "http://100.100.100.200/latest/meta-data/mac", nil)
	r.Header.Set(tokenHeader, token)
	w := httptest.NewRecorder()
	other.ServeHTTP(w, r)
	if w.Code != 401 {
		t.Errorf("another instance's token: %d", w.Code)
	}
	b.now = b.now.Add(60 * time.Second)
	if got := get(token); got != 401 {
		t.Errorf("an expired token: %d", got)
	}
	for _, c := range []struct {
		header []string
		want   int
	}{
		{nil, 400}, {[]string{ttlHeader, "0"}, 400}, {[]string{ttlHeader, "21601"}, 400}, {[]string{ttlHeader, "x"}, 400},
		{[]string{ttlHeader, "21600"}, 200}, {[]string{ttlHeader, "60", "X-Forwarded-For", "1.2.3.4"}, 403},
	} {
		if status, _ := b.do("PUT", "/latest/api/token", c.header...); status != c.want {
			t.Errorf("PUT with %v: %d, want %d", c.header, status, c.want)
		}
	}
	if status, _ := b.do("GET", "/latest/api/token", ttlHeader, "60"); status != http.StatusMethodNotAllowed {
		t.Errorf("GET of a token: %d", status)
	}
}

func TestRoleCredentials(t *testing.T) {
	b := service(t)
	read := func() (c struct{ Code, AccessKeyId, AccessKeySecret, SecurityToken, Expiration, LastUpdated string }) {
		status, text := b.do("GET", "/latest/meta-data/ram/security-credentials/Terway-Role")
		if status != 200 || json.Unmarshal([]byte(text), &c) != nil {
			t.Fatalf("%d %s", status, text)
		}
		return c
	}
	// Over two days the credentials are always accepted and valid for at least half an hour,
	// and replaced no more often than needed.
	keys := map[string]bool{}
	for range 2 * 24 * 6 {
		c := read()
		keys[c.AccessKeyId] = true
		secret, who, err := b.Authority.Secret(c.AccessKeyId, c.SecurityToken, b.now.Add(29*time.Minute))
		if err != nil || secret != c.AccessKeySecret || who.Role != "Terway-Role" || c.Code != "Success" {
			t.Fatalf("at %s: %+v, err %v", b.now, c, err)
		}
		until, err := time.Parse("2006-01-02T15:04:05Z", c.Expiration)
		if err != nil || until.Before(b.now.Add(30*time.Minute)) || until.After(b.now.Add(6*time.Hour)) {
			t.Fatalf("at %s: expiration %s, err %v", b.now, c.Expiration, err)
		}
		b.now = b.now.Add(10 * time.Minute)
	}
	if len(keys) < 8 || len(keys) > 10 {
		t.Errorf("%d keys in two days, want one for each 5½ hours", len(keys))
	}
	if _, text := b.do("GET", "/latest/meta-data/Ram/security-credentials/Terway-Role"); !strings.Contains(text, "Success") {
		t.Errorf("with a capital R: %s", text)
	}
}
