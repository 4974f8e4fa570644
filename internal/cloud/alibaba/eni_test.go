package alibaba

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"terway.dev/terway/internal/cloud"
)

func eniJSON(id, status, instance string, addrs ...string) map[string]any {
	var set []map[string]any
	for i, a := range addrs {
		set = append(set, map[string]any{"PrivateIpAddress": a, "Primary": i == 0})
	}
	return map[string]any{"NetworkInterfaceId": id, "Status": status, "InstanceId": instance, "MacAddress": "00:16:3e:00:00:01", "Type": "Secondary",
		"PrivateIpAddress": addrs[0], "PrivateIpSets": map[string]any{"PrivateIpSet": set}}
}

func enisAnswer(extra map[string]any, enis ...map[string]any) answer {
	m := map[string]any{"RequestId": "R", "NetworkInterfaceSets": map[string]any{"NetworkInterfaceSet": enis}}
	for k, v := range extra {
		m[k] = v
	}
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // a map of strings and numbers
	}
	return ok(string(b))
}

func ids(enis []cloud.ENI) []string {
	var s []string
	for _, e := range enis {
		s = append(s, e.ID)
	}
	slices.Sort(s)
	return s
}

// many returns n ENIs, of which a page has those from..to.
func many(from, to int) []map[string]any {
	var s []map[string]any
	for i := from; i < to; i++ {
		s = append(s, eniJSON(fmt.Sprintf("eni-%04d", i), "InUse", "i-1", fmt.Sprintf("10.1.%d.%d", i/200, 1+i%200)))
	}
	return s
}

func atoi(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0
	}
	return n
}

func TestAllPagesAreRead(t *testing.T) {
	for name, script := range map[string]func(int, url.Values) answer{
		"by token": func(_ int, q url.Values) answer {
			from := atoi(q.Get("NextToken"))
			to := min(from+atoi(q.Get("MaxResults")), 1203)
			extra := map[string]any{"TotalCount": 0}
			if to < 1203 {
				extra["NextToken"] = strconv.Itoa(to)
			}
			return enisAnswer(extra, many(from, to)...)
		},
		"by page number, tokens unknown": func(_ int, q url.Values) answer {
			page, size := max(1, atoi(q.Get("PageNumber"))), 100
			from := (page - 1) * size
			return enisAnswer(map[string]any{"TotalCount": 1203, "PageNumber": page, "PageSize": size}, many(min(from, 1203), min(from+size, 1203))...)
		},
		"by token, the last page full": func(_ int, q url.Values) answer {
			from := atoi(q.Get("NextToken"))
			if from >= 1203 {
				return enisAnswer(nil)
			}
			return enisAnswer(map[string]any{"NextToken": strconv.Itoa(from + 401)}, many(from, from+401)...)
		},
		"an ENI on two pages": func(n int, q url.Values) answer {
			if n == 0 {
				return enisAnswer(map[string]any{"NextToken": "x"}, many(0, 700)...)
			}
			return enisAnswer(nil, many(650, 1203)...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			enis, err := newTestClient(t, newFakeCloud(t, script)).DescribeENIs(t.Context(), cloud.ENIFilter{})
			if err != nil {
				t.Fatal(err)
			}
			got := ids(enis)
			if len(got) != 1203 || len(slices.Compact(slices.Clone(got))) != 1203 {
				t.Errorf("%d ENIs, want 1203 different ones", len(got))
			}
		})
	}
}

func TestPagesThatNeverEnd(t *testing.T) {
	f := newFakeCloud(t, in(enisAnswer(map[string]any{"NextToken": "same"}, many(0, 10)...)))
	_, err := newTestClient(t, f).DescribeENIs(t.Context(), cloud.ENIFilter{})
	if cloud.Explain(err).Reason != "BadAnswer" || len(f.calls) != 2 {
		t.Errorf("%v after %d calls", err, len(f.calls))
	}
	f = newFakeCloud(t, in(enisAnswer(map[string]any{"PageNumber": 1, "PageSize": 10, "TotalCount": 99}, many(0, 10)...)))
	enis, err := newTestClient(t, f).DescribeENIs(t.Context(), cloud.ENIFilter{})
	if err != nil || len(enis) != 10 || len(f.calls) != 2 {
		t.Errorf("%d ENIs, %v after %d calls", len(enis), err, len(f.calls))
	}
}

func TestFilterOnTheWireAndChunks(t *testing.T) {
	f := newFakeCloud(t, in(enisAnswer(nil)))
	c := newTestClient(t, f)
	var want []string
	for i := range 201 {
		want = append(want, fmt.Sprintf("eni-%03d", i))
	}
	filter := cloud.ENIFilter{IDs: append(slices.Clone(want), "eni-000"), InstanceID: "i-1", VPCID: "vpc-1", Type: "Secondary", Status: cloud.ENIInUse, Tags: map[string]string{"k": "v", "a": ""}}
	if _, err := c.DescribeENIs(t.Context(), filter); err != nil {
		t.Fatal(err)
	}
	var asked []string
	for _, q := range f.calls {
		for i := 1; q.Has(fmt.Sprintf("NetworkInterfaceId.%d", i)); i++ {
			asked = append(asked, q.Get(fmt.Sprintf("NetworkInterfaceId.%d", i)))
		}
		for k, v := range map[string]string{"InstanceId": "i-1", "VpcId": "vpc-1", "Type": "Secondary", "Status": "InUse", "Tag.1.Key": "a", "Tag.2.Key": "k", "Tag.2.Value": "v", "MaxResults": "500"} {
			if q.Get(k) != v {
				t.Errorf("%s = %q, want %q", k, q.Get(k), v)
			}
		}
	}
	if len(f.calls) != 3 || !slices.Equal(asked, want) {
		t.Errorf("%d calls asked for %d ids", len(f.calls), len(asked))
	}
}

func TestBadAnswersNameFieldAndValue(t *testing.T) {
	change := func(k string, v any) map[string]any {
		m := eniJSON("eni-1", "InUse", "i-1", "10.0.0.1", "10.0.0.2")
		m[k] = v
		return m
	}
	for want, m := range map[string]map[string]any{
		`ENI "eni-1": PrivateIpAddress: "300.1.1.1"`: change("PrivateIpAddress", "300.1.1.1"),
		`ENI "eni-1": MacAddress: "zz"`:              change("MacAddress", "zz"),
		`ENI "": NetworkInterfaceId`:                 change("NetworkInterfaceId", ""),
		`PrivateIpSets: "fd00::1"`:                   change("PrivateIpSets", map[string]any{"PrivateIpSet": []map[string]any{{"PrivateIpAddress": "fd00::1"}}}),
		`primary address is 10.0.0.9`:                change("PrivateIpSets", map[string]any{"PrivateIpSet": []map[string]any{{"PrivateIpAddress": "10.0.0.9", "Primary": true}}}),
	} {
		_, err := newTestClient(t, newFakeCloud(t, in(enisAnswer(nil, m)))).DescribeENIs(t.Context(), cloud.ENIFilter{})
		if err == nil || !strings.Contains(err.Error(), want) || cloud.Explain(err).Reason != "BadAnswer" {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// byAction answers each action with its own script.
func byAction(m map[string][]answer) func(int, url.Values) answer {
	seen := map[string]int{}
	return func(_ int, q url.Values) answer {
		action := q.Get("Action")
		list := m[action]
		if len(list) == 0 {
			return no(404, "InvalidAction.NotFound")
		}
		n := seen[action]
		seen[action]++
		return list[min(n, len(list)-1)]
	}
}

func TestIdempotentByState(t *testing.T) {
	const empty = `{"RequestId":"R"}`
	busy, gone := no(400, "InvalidOperation.InvalidEniState"), no(404, "InvalidEniId.NotFound")
	attach := func(c testClient) error { return c.AttachENI(t.Context(), "eni-1", "i-1") }
	detach := func(c testClient) error { return c.DetachENI(t.Context(), "eni-1", "i-1") }
	remove := func(c testClient) error { return c.DeleteENI(t.Context(), "eni-1") }
	looks := func(status, instance string) answer {
		return enisAnswer(nil, eniJSON("eni-1", status, instance, "10.0.0.1"))
	}
	nothing := enisAnswer(nil)
	for _, c := range []struct {
		name   string
		do     func(testClient) error
		action string
		first  answer
		look   answer
		want   string // code; empty: no error
	}{
		{"attach", attach, "AttachNetworkInterface", ok(empty), nothing, ""},
		{"attach again", attach, "AttachNetworkInterface", busy, looks("InUse", "i-1"), ""},
		{"attach while attaching", attach, "AttachNetworkInterface", busy, looks("Attaching", "i-1"), ""},
		{"attach again on a full instance", attach, "AttachNetworkInterface", no(403, "EniPerInstanceLimitExceeded"), looks("InUse", "i-1"), ""},
		{"attach on a full instance", attach, "AttachNetworkInterface", no(403, "EniPerInstanceLimitExceeded"), looks("Available", ""), "EniPerInstanceLimitExceeded"},
		{"attach one of another instance", attach, "AttachNetworkInterface", busy, looks("InUse", "i-2"), "InvalidOperation.InvalidEniState"},
		{"attach while detaching", attach, "AttachNetworkInterface", busy, looks("Detaching", "i-1"), "InvalidOperation.InvalidEniState"},
		{"attach nothing", attach, "AttachNetworkInterface", gone, nothing, "InvalidEniId.NotFound"},
		{"detach", detach, "DetachNetworkInterface", ok(empty), nothing, ""},
		{"detach again", detach, "DetachNetworkInterface", busy, looks("Available", ""), ""},
		{"detach while detaching", detach, "DetachNetworkInterface", busy, looks("Detaching", "i-1"), ""},
		{"detach from another instance", detach, "DetachNetworkInterface", no(404, "InvalidInstanceId.NotFound"), looks("InUse", "i-2"), ""},
		{"detach while attaching", detach, "DetachNetworkInterface", busy, looks("Attaching", "i-1"), "InvalidOperation.InvalidEniState"},
		{"detach a vanished one", detach, "DetachNetworkInterface", gone, nothing, ""},
		{"detach from a vanished instance", detach, "DetachNetworkInterface", no(404, "InvalidEcsId.NotFound"), nothing, ""},
		{"detach the primary", detach, "DetachNetworkInterface", no(403, "InvalidOperation.DetachPrimaryEniNotAllowed"), looks("InUse", "i-1"), "InvalidOperation.DetachPrimaryEniNotAllowed"},
		{"detach without permission", detach, "DetachNetworkInterface", no(403, "Forbidden.RAM"), nothing, "Forbidden.RAM"},
		{"delete", remove, "DeleteNetworkInterface", ok(empty), nothing, ""},
		{"delete a vanished one", remove, "DeleteNetworkInterface", gone, nothing, ""},
		{"delete while deleting", remove, "DeleteNetworkInterface", busy, looks("Deleting", ""), ""},
		{"delete one in use", remove, "DeleteNetworkInterface", busy, looks("InUse", "i-1"), "InvalidOperation.InvalidEniState"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFakeCloud(t, byAction(map[string][]answer{c.action: {c.first}, "DescribeNetworkInterfaces": {c.look}}))
			if err := c.do(newTestClient(t, f)); cloud.CodeOf(err) != c.want || (err == nil) != (c.want == "") {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func TestUnassign(t *testing.T) {
	addrs := func(s ...string) []netip.Addr {
		var list []netip.Addr
		for _, a := range s {
			list = append(list, netip.MustParseAddr(a))
		}
		return list
	}
	not := no(403, "InvalidIp.IpUnassigned")
	holds := func(a ...string) answer { return enisAnswer(nil, eniJSON("eni-1", "InUse", "i-1", a...)) }
	done := ok(`{"RequestId":"R"}`)
	for _, c := range []struct {
		name     string
		unassign []answer
		look     []answer
		calls    []string // what each Unassign call contained
		want     string
	}{
		{"all there", []answer{done}, nil, []string{"10.0.0.2 10.0.0.3"}, ""},
		{"one there", []answer{not, done}, []answer{holds("10.0.0.1", "10.0.0.3")}, []string{"10.0.0.2 10.0.0.3", "10.0.0.3"}, ""},
		{"none there", []answer{not}, []answer{holds("10.0.0.1", "10.0.0.9")}, []string{"10.0.0.2 10.0.0.3"}, ""},
		{"changing meanwhile", []answer{not, not, done}, []answer{holds("10.0.0.1", "10.0.0.2", "10.0.0.3"), holds("10.0.0.1", "10.0.0.2")},
			[]string{"10.0.0.2 10.0.0.3", "10.0.0.2 10.0.0.3", "10.0.0.2"}, ""},
		{"never settles", []answer{not}, []answer{holds("10.0.0.1", "10.0.0.2", "10.0.0.3")}, []string{"10.0.0.2 10.0.0.3", "10.0.0.2 10.0.0.3", "10.0.0.2 10.0.0.3"}, "InvalidIp.IpUnassigned"},
		{"the primary", []answer{not}, []answer{holds("10.0.0.2", "10.0.0.3")}, []string{"10.0.0.2 10.0.0.3"}, "InvalidParameter"},
		{"ENI gone", []answer{no(404, "InvalidEniId.NotFound")}, nil, []string{"10.0.0.2 10.0.0.3"}, ""},
		{"ENI gone meanwhile", []answer{not}, []answer{enisAnswer(nil)}, []string{"10.0.0.2 10.0.0.3"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFakeCloud(t, byAction(map[string][]answer{"UnassignPrivateIpAddresses": c.unassign, "DescribeNetworkInterfaces": c.look}))
			err := newTestClient(t, f).UnassignAddresses(t.Context(), "eni-1", addrs("10.0.0.2", "10.0.0.3"))
			if cloud.CodeOf(err) != c.want || (err == nil) != (c.want == "") {
				t.Errorf("%v, want %q", err, c.want)
			}
			var named []string
			for _, q := range f.calls {
				if q.Get("Action") == "UnassignPrivateIpAddresses" {
					named = append(named, strings.TrimSpace(q.Get("PrivateIpAddress.1")+" "+q.Get("PrivateIpAddress.2")))
				}
			}
			if !slices.Equal(named, c.calls) {
				t.Errorf("calls named %q, want %q", named, c.calls)
			}
		})
	}
	c := newTestClient(t, newFakeCloud(t, in(done)))
	if err := c.UnassignAddresses(t.Context(), "eni-1", nil); err != nil {
		t.Error(err)
	}
	if err := c.UnassignAddresses(t.Context(), "eni-1", make([]netip.Addr, 11)); err == nil {
		t.Error("11 addresses in one call")
	}
}

// For any answer of an endpoint, the client returns valid data or an error.
func FuzzAnswers(f *testing.F) {
	f.Add(createdBody, 200)
	f.Add(enisAnswer(map[string]any{"NextToken": "1"}, eniJSON("eni-1", "InUse", "i-1", "10.0.0.1")).body, 200)
	f.Add(`{"AssignedPrivateIpAddressesSet":{"PrivateIpSet":{"PrivateIpAddress":["10.0.0.1"]}}}`, 200)
	f.Add(`{"VpcId":"vpc-1","CidrBlock":"10.0.0.0/8","VSwitches":{"VSwitch":[{"VSwitchId":"vsw-1","CidrBlock":"10.0.0.0/24"}]}}`, 200)
	f.Add(`{"InstanceTypes":{"InstanceType":[{"InstanceTypeId":"t","EniQuantity":"2","EniPrivateIpAddressQuantity":1}]}}`, 200)
	f.Add(`{"Zones":{"Zone":[{"ZoneId":"cn-hangzhou-i"},{}]}}`, 200)
	f.Add(`{"Code":1,"AccessDeniedDetail":[]}`, 403)
	f.Add(`[]`, 500)
	f.Fuzz(func(t *testing.T, body string, status int) {
		if status < 200 || status > 599 || status == 204 || status == 304 {
			status = 200
		}
		c, err := New(Config{Region: "cn-hangzhou", ECSEndpoint: "http://fuzz", VPCEndpoint: "http://fuzz", Attempts: 2,
			Credentials: StaticCredentials(testKey, testSecret), Clock: newFakeClock(), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		c.http = roundTrip(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: status, Proto: "HTTP/1.1", Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
		})
		sound := func(eni *cloud.ENI) {
			if eni.ID == "" || (eni.Status == cloud.ENIInUse && !eni.Primary.Is4()) {
				t.Fatalf("%+v", eni)
			}
			for _, a := range eni.Addresses {
				if !a.Is4() {
					t.Fatalf("%+v", eni)
				}
			}
		}
		if eni, err := c.CreateENI(t.Context(), createRequest); err == nil {
			sound(eni)
		}
		if enis, err := c.DescribeENIs(t.Context(), cloud.ENIFilter{}); err == nil {
			for _, e := range enis {
				sound(&e)
			}
		}
		if a, err := c.AssignAddresses(t.Context(), "eni-1", 1, "tok"); err == nil && (len(a) == 0 || !a[0].Is4()) {
			t.Fatal(a)
		}
		if s, err := c.ListVSwitches(t.Context(), "vpc-1"); err == nil && len(s) > 0 && !s[0].CIDR.IsValid() {
			t.Fatal(s)
		}
		if v, err := c.DescribeVPC(t.Context(), "vpc-1"); err == nil && (len(v.CIDRs) == 0 || !v.CIDRs[0].IsValid()) {
			t.Fatal(v)
		}
		if z, err := c.ListZones(t.Context()); err == nil && (len(z) == 0 || z[0] == "") {
			t.Fatal(z)
		}
		if it, err := c.DescribeInstanceType(t.Context(), "t"); err == nil && it.ENIs < 1 {
			t.Fatal(it)
		}
		if _, err := c.DescribeInstances(t.Context(), []string{"i-1"}); err != nil && cloud.Explain(err).Cause == "" {
			t.Fatal(err)
		}
	})
}
