package alibaba

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"terway.dev/terway/internal/cloud"
)

const createdBody = `{"RequestId":"R","NetworkInterfaceId":"eni-1","MacAddress":"00:16:3e:00:00:01","Status":"Available","Type":"Secondary",
 "VpcId":"vpc-1","VSwitchId":"vsw-1","ZoneId":"cn-hangzhou-i","PrivateIpAddress":"192.168.32.10",
 "PrivateIpSets":{"PrivateIpSet":[{"PrivateIpAddress":"192.168.32.11","Primary":false},{"PrivateIpAddress":"192.168.32.10","Primary":true}]},
 "SecurityGroupIds":{"SecurityGroupId":["sg-1"]},"Tags":{"Tag":[{"TagKey":"creator","TagValue":"terway"}]}}`

var createRequest = cloud.CreateENIRequest{Token: "tok-1", VSwitchID: "vsw-1", SecurityGroups: []string{"sg-1", "sg-2"},
	SecondaryCount: 1, Name: "eni-of-node", Tags: map[string]string{"creator": "terway", "a": "b"}}

func TestRepeatsWithTheSameToken(t *testing.T) {
	for name, first := range map[string]answer{
		"throttled":        no(400, "Throttling.User"),
		"internal error":   no(500, "InternalError"),
		"gateway":          {status: 502, body: "<html>bad gateway</html>"},
		"token processing": no(400, "LastTokenProcessing"),
		"lost answer":      {cut: true},
		"half an answer":   ok(`{"RequestId":"R","NetworkInter`),
		"strange error":    {status: 400, body: `{"Code":17,"Message":["x"]}`},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeCloud(t, in(first, first, ok(createdBody)))
			c := newTestClient(t, f)
			eni, err := c.CreateENI(t.Context(), createRequest)
			if err != nil {
				t.Fatal(err)
			}
			if len(f.calls) != 3 || len(c.clock.slept) < 2 {
				t.Fatalf("%d calls, pauses %v; want 3 calls with pauses between", len(f.calls), c.clock.slept)
			}
			business := func(q url.Values) string {
				for _, k := range []string{"Signature", "SignatureNonce", "Timestamp"} {
					q.Del(k)
				}
				return q.Encode()
			}
			if first := business(f.calls[0]); !strings.Contains(first, "ClientToken=tok-1") || first != business(f.calls[1]) || first != business(f.calls[2]) {
				t.Errorf("the calls differ: %v", f.calls)
			}
			if eni.ID != "eni-1" || eni.Primary.String() != "192.168.32.10" || fmt.Sprint(eni.Addresses) != "[192.168.32.10 192.168.32.11]" || eni.Tags["creator"] != "terway" {
				t.Errorf("%+v", eni)
			}
		})
	}
}

func TestParametersOnTheWire(t *testing.T) {
	f := newFakeCloud(t, in(ok(createdBody)))
	if _, err := newTestClient(t, f).CreateENI(t.Context(), createRequest); err != nil {
		t.Fatal(err)
	}
	q := f.calls[0]
	for k, v := range map[string]string{
		"Action": "CreateNetworkInterface", "Version": "2014-05-26", "RegionId": "cn-hangzhou", "AccessKeyId": testKey, "SignatureMethod": "HMAC-SHA1",
		"VSwitchId": "vsw-1", "SecurityGroupIds.1": "sg-1", "SecurityGroupIds.2": "sg-2", "SecondaryPrivateIpAddressCount": "1", "DeleteOnRelease": "true",
		"Tag.1.Key": "a", "Tag.1.Value": "b", "Tag.2.Key": "creator", "Tag.2.Value": "terway", "NetworkInterfaceName": "eni-of-node",
	} {
		if q.Get(k) != v {
			t.Errorf("%s = %q, want %q", k, q.Get(k), v)
		}
	}
}

func TestDoesNotRepeat(t *testing.T) {
	for _, code := range []string{"InvalidVSwitchId.IpNotEnough", "EniPerInstanceLimitExceeded", "Forbidden.RAM", "IdempotentParameterMismatch", "InvalidParameter", "SomethingNew"} {
		f := newFakeCloud(t, in(no(403, code)))
		_, err := newTestClient(t, f).CreateENI(t.Context(), createRequest)
		var e *cloud.Error
		if !errors.As(err, &e) || e.Code != code || e.RequestID != "R-1" || e.Status != 403 || e.Message != "it is so" || e.Action != "CreateNetworkInterface" {
			t.Errorf("%s: %#v", code, err)
		}
		if len(f.calls) != 1 {
			t.Errorf("%s: %d calls, want 1", code, len(f.calls))
		}
	}
}

func TestGivesUp(t *testing.T) {
	f := newFakeCloud(t, in(no(503, "ServiceUnavailable")))
	c := newTestClient(t, f, func(cfg *Config) { cfg.Attempts = 3 })
	if _, err := c.CreateENI(t.Context(), createRequest); cloud.CodeOf(err) != "ServiceUnavailable" || len(f.calls) != 3 {
		t.Errorf("%v after %d calls, want ServiceUnavailable after 3", err, len(f.calls))
	}
	// No pause is started that would end after the deadline.
	f = newFakeCloud(t, in(no(503, "ServiceUnavailable")))
	c = newTestClient(t, f, func(cfg *Config) { cfg.Clock = nil })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.CreateENI(ctx, createRequest); cloud.CodeOf(err) != "ServiceUnavailable" || len(f.calls) != 1 {
		t.Errorf("%v after %d calls, want the cloud's answer after 1", err, len(f.calls))
	}
	// The answer is kept while the retry waits for the rate limit.
	f = newFakeCloud(t, in(no(400, "Throttling")))
	c = newTestClient(t, f, func(cfg *Config) {
		cfg.Clock = nil
		cfg.Limits = map[string]int{"CreateNetworkInterface": 1} // a minute
	})
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second) // longer than the pause
	defer cancel()
	if _, err := c.CreateENI(ctx, createRequest); cloud.CodeOf(err) != "Throttling" || len(f.calls) != 1 {
		t.Errorf("%v after %d calls, want the cloud's answer after 1", err, len(f.calls))
	}
}

// TestTellsLongPauses: a call with long retries reports why it waits.
func TestTellsLongPauses(t *testing.T) {
	var told []Pause
	listen := func(cfg *Config) { cfg.Slow = func(p Pause) { told = append(told, p) } }
	rarely := func(cfg *Config) { cfg.Limits = map[string]int{"CreateNetworkInterface": 60} }
	c := newTestClient(t, newFakeCloud(t, in(no(400, "Throttling"))), listen, rarely)
	if _, err := c.CreateENI(t.Context(), createRequest); cloud.CodeOf(err) != "Throttling" {
		t.Fatal(err)
	}
	var all time.Duration
	for _, d := range c.clock.slept {
		all += d
	}
	silent := all
	repeats, turns := 0, 0
	for _, p := range told {
		silent -= p.For
		switch {
		case p.Action != "CreateNetworkInterface":
			t.Errorf("told of %s", p.Action)
		case p.Err == nil:
			turns++
		case cloud.CodeOf(p.Err) == "Throttling":
			repeats++
		default:
			t.Errorf("told of %v", p.Err)
		}
	}
	if repeats == 0 || turns == 0 || silent > 5*time.Second {
		t.Errorf("of pauses of %s all but %s were told, %d before a repetition, %d before the call's turn", all, silent, repeats, turns)
	}
	told = nil
	c = newTestClient(t, newFakeCloud(t, in(no(400, "Throttling"), no(400, "Throttling"), ok(createdBody))), listen)
	if _, err := c.CreateENI(t.Context(), createRequest); err != nil || len(told) > 0 {
		t.Errorf("%v; told of %v, want nothing of a call that is quick", err, told)
	}
}

func TestContextEndsACall(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	f := newFakeCloud(t, func(int, url.Values) answer { cancel(); return answer{cut: true} })
	c := newTestClient(t, f)
	_, err := c.CreateENI(ctx, createRequest)
	if !errors.Is(err, context.Canceled) || cloud.Explain(err).Reason != "Cancelled" || len(f.calls) != 1 {
		t.Errorf("%v (%s) after %d calls", err, cloud.Explain(err).Reason, len(f.calls))
	}
}

// TestRequestTimeoutBoundsAnAttempt: an attempt ends by the timeout, and a missing answer is
// reported before.
func TestRequestTimeoutBoundsAnAttempt(t *testing.T) {
	told := make(chan Pause, 10)
	f := newFakeCloud(t, func(n int, _ url.Values) answer {
		if n == 0 {
			if p := <-told; p.Action != "CreateNetworkInterface" || !p.Unanswered || p.For != 30*time.Millisecond {
				t.Errorf("told %+v of a call without an answer", p)
			}
			<-t.Context().Done()
		}
		return ok(createdBody)
	})
	c := newTestClient(t, f, func(cfg *Config) {
		cfg.RequestTimeout = 40 * time.Millisecond
		cfg.Slow = func(p Pause) { told <- p }
	})
	_, err := c.CreateENI(t.Context(), createRequest)
	if err != nil || len(f.calls) < 2 {
		t.Errorf("%v after %d calls, want success with a later one than the first", err, len(f.calls))
	}
}

func TestQueueLongerThanTheDeadline(t *testing.T) {
	f := newFakeCloud(t, in(ok(createdBody)))
	c := newTestClient(t, f, func(cfg *Config) {
		cfg.Clock = nil
		cfg.Limits = map[string]int{"CreateNetworkInterface": 1}
	})
	if _, err := c.CreateENI(t.Context(), createRequest); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := c.CreateENI(ctx, createRequest)
	if cloud.Explain(err).Reason != "RateLimited" || len(f.calls) != 1 {
		t.Errorf("%v (%s) after %d calls, want RateLimited at once", err, cloud.Explain(err).Reason, len(f.calls))
	}
}

func TestRefusesUnsafeRequests(t *testing.T) {
	f := newFakeCloud(t, in(ok(createdBody)))
	c := newTestClient(t, f)
	change := func(f func(*cloud.CreateENIRequest)) cloud.CreateENIRequest { r := createRequest; f(&r); return r }
	for name, r := range map[string]cloud.CreateENIRequest{
		"client token":   change(func(r *cloud.CreateENIRequest) { r.Token = "" }),
		"vSwitch":        change(func(r *cloud.CreateENIRequest) { r.VSwitchID = "" }),
		"security group": change(func(r *cloud.CreateENIRequest) { r.SecurityGroups = nil }),
		"50 secondary":   change(func(r *cloud.CreateENIRequest) { r.SecondaryCount = 50 }),
	} {
		if _, err := c.CreateENI(t.Context(), r); cloud.ClassOf(err) != cloud.Invalid || !strings.Contains(fmt.Sprint(err), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, n := range []int{-1, 0, 11} {
		if _, err := c.AssignAddresses(t.Context(), "eni-1", n, "tok"); cloud.ClassOf(err) != cloud.Invalid {
			t.Errorf("%d addresses: %v", n, err)
		}
	}
	if _, err := c.AssignAddresses(t.Context(), "eni-1", 1, ""); cloud.ClassOf(err) != cloud.Invalid || err == nil {
		t.Errorf("no token: %v", err)
	}
	if len(f.calls) != 0 {
		t.Errorf("%d calls were sent", len(f.calls))
	}
}

// Many people can read errors and logs.
func TestNothingSecretIsSaid(t *testing.T) {
	const token = "security-token-of-the-test"
	sts := fixedSource{Credential{AccessKeyID: testKey, AccessKeySecret: testSecret, SecurityToken: token}}
	closed := newFakeCloud(t, in(ok("")))
	closed.Close()
	for name, f := range map[string]*fakeCloud{
		"unreachable": closed,
		"cut":         newFakeCloud(t, in(answer{cut: true})),
		"mismatch": newFakeCloud(t, func(_ int, q url.Values) answer {
			return answer{status: 403, body: fmt.Sprintf(`{"Code":"SignatureDoesNotMatch","RequestId":"R","Message":"Specified signature is not matched with our calculation. server string to sign is:%s"}`, q.Encode())}
		}),
		"html":   newFakeCloud(t, in(answer{status: 502, body: "<html>"})),
		"denied": newFakeCloud(t, in(no(403, "Forbidden.RAM"))),
	} {
		t.Run(name, func(t *testing.T) {
			c := newTestClient(t, f, func(cfg *Config) { cfg.Credentials = sts; cfg.Attempts = 2 })
			_, err := c.CreateENI(t.Context(), createRequest)
			if err == nil {
				t.Fatal("want an error")
			}
			var chain []string
			for e := err; e != nil; e = errors.Unwrap(e) {
				chain = append(chain, fmt.Sprintf("%v %+v %#v", e, e, e))
			}
			all := strings.Join(chain, "\n") + c.log.String()
			for _, secret := range []string{testSecret, token, "Signature=", "AccessKeySecret"} {
				if strings.Contains(all, secret) {
					t.Errorf("%q is said in: %s", secret, all)
				}
			}
		})
	}
	for _, s := range []any{sts.cred, &sts.cred, StaticCredentials(testKey, testSecret), []any{StaticCredentials(testKey, testSecret)}, Config{Credentials: StaticCredentials(testKey, testSecret)}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
			if said := fmt.Sprintf(verb, s); strings.Contains(said, testSecret) || strings.Contains(said, token) {
				t.Errorf("%T printed with %s has its secret in it: %s", s, verb, said)
			}
		}
	}
}

type fixedSource struct{ cred Credential }

func (s fixedSource) Get(context.Context) (Credential, error) { return s.cred, nil }
func (s fixedSource) Forget(Credential)                       {}

func TestRefusedCredentialIsFetchedAnew(t *testing.T) {
	f := newFakeCloud(t, func(_ int, q url.Values) answer {
		if q.Get("SecurityToken") == "old" {
			return no(403, "InvalidSecurityToken.Expired")
		}
		return ok(createdBody)
	})
	tokens := []string{"old", "new"}
	clock := newFakeClock()
	source := newRenewedSource(clock, nil, func(context.Context) (Credential, error) {
		next := tokens[0]
		if len(tokens) > 1 {
			tokens = tokens[1:]
		}
		return Credential{AccessKeyID: "STS." + next, AccessKeySecret: testSecret, SecurityToken: next, Expires: clock.Now().Add(time.Hour)}, nil
	})
	c := newTestClient(t, f, func(cfg *Config) { cfg.Credentials = source })
	if _, err := c.CreateENI(t.Context(), createRequest); err != nil || len(f.calls) != 2 {
		t.Errorf("%v after %d calls, want success with the second", err, len(f.calls))
	}
	// There is no other credential: the error is returned at once.
	f = newFakeCloud(t, in(no(403, "InvalidSecurityToken.Expired")))
	c = newTestClient(t, f, func(cfg *Config) { cfg.Credentials = source })
	if _, err := c.CreateENI(t.Context(), createRequest); cloud.Explain(err).Reason != "TokenExpired" || len(f.calls) != 1 {
		t.Errorf("%v after %d calls", err, len(f.calls))
	}
}

func TestMetrics(t *testing.T) {
	f := newFakeCloud(t, in(no(400, "Throttling"), no(400, "SomethingNobodyKnows-eni-42"), ok(createdBody)))
	c := newTestClient(t, f)
	if _, err := c.CreateENI(t.Context(), createRequest); err == nil {
		t.Fatal("want the second answer")
	}
	if _, err := c.CreateENI(t.Context(), createRequest); err != nil {
		t.Fatal(err)
	}
	families, err := c.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, fam := range families {
		for _, m := range fam.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetValue())
			}
			got[fam.GetName()+"{"+strings.Join(labels, ",")+"}"] = true
		}
	}
	for _, want := range []string{
		"terway_cloud_request_duration_seconds{CreateNetworkInterface,ok}",
		"terway_cloud_request_duration_seconds{CreateNetworkInterface,Throttled}",
		"terway_cloud_request_duration_seconds{CreateNetworkInterface,Invalid}",
		"terway_cloud_wait_duration_seconds{CreateNetworkInterface}",
		"terway_cloud_retries_total{CreateNetworkInterface,Throttled}",
		"terway_cloud_errors_total{CreateNetworkInterface,Throttled}",
		"terway_cloud_errors_total{CreateNetworkInterface,Refused}", // the code itself is not a label
		"terway_cloud_rate_limit{CreateNetworkInterface}",
		"terway_cloud_credential_expiry_timestamp_seconds{}",
	} {
		if !got[want] {
			t.Errorf("%s is missing", want)
		}
		delete(got, want)
	}
	for extra := range got {
		t.Errorf("unexpected %s", extra)
	}
}

func TestParseEndpoint(t *testing.T) {
	for s, want := range map[string]string{
		"": "HTTPS ", "ecs.example.com": "HTTPS ecs.example.com", "10.0.0.1:8080": "HTTPS 10.0.0.1:8080",
		"http://100.100.100.201": "HTTP 100.100.100.201", "https://a:1/": "HTTPS a:1", "[fd00::1]:80": "HTTPS [fd00::1]:80",
	} {
		at, err := parseEndpoint("ECS endpoint", s)
		if err != nil || at.scheme+" "+at.host != want {
			t.Errorf("%q: %v %v", s, at, err)
		}
	}
	for _, s := range []string{"ftp://a", "http://", "http://a/path", "http://u:p@a", "http://a?x=1", "://"} {
		if _, err := parseEndpoint("ECS endpoint", s); err == nil || !strings.Contains(err.Error(), "ECS endpoint") {
			t.Errorf("%q: %v, want an error that names the field", s, err)
		}
	}
}

func TestNewRefusesBadConfig(t *testing.T) {
	good := Config{Region: "cn-hangzhou", Credentials: StaticCredentials("a", "b")}
	for field, change := range map[string]func(*Config){
		"region":     func(c *Config) { c.Region = "cn hangzhou" },
		"credential": func(c *Config) { c.Credentials = nil },
		"network":    func(c *Config) { c.Network = "moon" },
		"VPC":        func(c *Config) { c.VPCEndpoint = "ftp://x" },
		"not an act": func(c *Config) { c.Limits = map[string]int{"DropDatabase": 1} },
		"positive":   func(c *Config) { c.Limits = map[string]int{"DescribeInstances": 0} },
	} {
		cfg := good
		change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
}

// Without configured endpoints the SDK knows where the region's products are.
func TestRegionalEndpoints(t *testing.T) {
	for network, want := range map[string][]string{
		"":    {"https://ecs-cn-hangzhou.aliyuncs.com", "https://vpc.aliyuncs.com"},
		"vpc": {"https://ecs-vpc.cn-hangzhou.aliyuncs.com", "https://vpc-vpc.cn-hangzhou.aliyuncs.com"},
	} {
		c, err := New(Config{Region: "cn-hangzhou", Network: network, Credentials: StaticCredentials("a", "b"), Attempts: 1})
		if err != nil {
			t.Fatal(err)
		}
		var asked []string
		c.http = roundTrip(func(r *http.Request) (*http.Response, error) {
			asked = append(asked, r.URL.Scheme+"://"+r.URL.Host)
			return nil, errors.New("not sent")
		})
		_, _ = c.DescribeInstances(t.Context(), []string{"i-1"})
		_, _ = c.DescribeVPC(t.Context(), "vpc-1")
		if !slices.Equal(asked, want) {
			t.Errorf("network %q: %v, want %v", network, asked, want)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// The gauge has when the credential in use expires.
func TestCredentialExpiry(t *testing.T) {
	expiry := time.Unix(1_800_000_000, 0)
	for _, c := range []struct {
		cred Credential
		want float64
	}{
		{Credential{AccessKeyID: testKey, AccessKeySecret: testSecret, SecurityToken: "t", Expires: expiry}, 1_800_000_000},
		{Credential{AccessKeyID: testKey, AccessKeySecret: testSecret}, math.Inf(1)},
	} {
		f := newFakeCloud(t, in(ok(createdBody)))
		client := newTestClient(t, f, func(cfg *Config) { cfg.Credentials = staticSource{c.cred} })
		value := func() float64 {
			families, err := client.metrics.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, fam := range families {
				if fam.GetName() == "terway_cloud_credential_expiry_timestamp_seconds" {
					return fam.Metric[0].GetGauge().GetValue()
				}
			}
			return 0
		}
		if before := value(); !math.IsInf(before, 1) {
			t.Errorf("before the first call: %v, want +Inf", before)
		}
		if _, err := client.CreateENI(t.Context(), createRequest); err != nil {
			t.Fatal(err)
		}
		if got := value(); got != c.want {
			t.Errorf("expiry %v, want %v", got, c.want)
		}
	}
}

// The log has each call with the cloud's id of the request and the sandboxes of the pods that wait for it.
func TestLogOfCalls(t *testing.T) {
	f := newFakeCloud(t, in(no(403, "EniPerInstanceLimitExceeded"), ok(createdBody)))
	c := newTestClient(t, f)
	ctx := cloud.WithSandboxes(t.Context(), []string{"7c5e", "a01b"})
	if _, err := c.CreateENI(ctx, createRequest); err == nil {
		t.Fatal("want the first answer")
	}
	if _, err := c.CreateENI(ctx, createRequest); err != nil {
		t.Fatal(err)
	}
	var calls []string
	for line := range strings.Lines(c.log.String()) {
		if strings.Contains(line, `msg="cloud call"`) {
			calls = append(calls, line)
		}
	}
	if len(calls) != 2 {
		t.Fatalf("%d lines, want 2: %q", len(calls), calls)
	}
	for i, line := range calls {
		request := []string{"request=R-1 ", "request=R "}[i] // createdBody's
		for _, want := range []string{"action=CreateNetworkInterface", request, `sandboxes="[7c5e a01b]"`, []string{"EniPerInstanceLimitExceeded", "error=<nil>"}[i]} {
			if !strings.Contains(line, want) {
				t.Errorf("no %s in %s", want, line)
			}
		}
	}
}

// At level info a call that fails for waiting pods is one line, however often it is sent and however many pods wait, and one that succeeds at
// last is none.
func TestOneLineForAFailedCall(t *testing.T) {
	ids := []string{"s0", "s1", "s2", "s3", "s4", "s5"}
	f := newFakeCloud(t, in(no(503, "ServiceUnavailable"), no(503, "ServiceUnavailable"), ok(createdBody)))
	c := newTestClient(t, f)
	lines := func() (out []string) {
		for line := range strings.Lines(c.log.String()) {
			if !strings.Contains(line, "level=DEBUG") {
				out = append(out, line)
			}
		}
		return out
	}
	ctx := cloud.WithSandboxes(t.Context(), ids)
	if _, err := c.CreateENI(ctx, createRequest); err != nil {
		t.Fatal(err)
	}
	if got := lines(); len(got) > 0 {
		t.Errorf("it has succeeded: %q", got)
	}
	f = newFakeCloud(t, in(no(503, "ServiceUnavailable")))
	c = newTestClient(t, f)
	if _, err := c.CreateENI(ctx, createRequest); err == nil {
		t.Fatal("it has succeeded")
	}
	got := lines()
	if len(got) != 1 || !strings.Contains(got[0], `sandboxes="[s0 s1 s2 s3 and 2 others]"`) || !strings.Contains(got[0], "action=CreateNetworkInterface") || strings.Contains(got[0], "attempts=1 ") {
		t.Errorf("lines %q, want one with a few of the sandboxes", got)
	}
}
