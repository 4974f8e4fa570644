package vpcsim_test

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"testing"
	"time"

	"github.com/alibabacloud-go/tea/tea"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/auth"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/auth/credentials"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/ecs"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/vpc"

	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/openapi"
)

// Programs read from an instance whether it is a spot instance, and when it expires: a
// pay-as-you-go instance is no spot instance, and expires in 2099, to the minute.
func TestInstanceThatDoesNotEnd(t *testing.T) {
	c := connect(t, start(t))
	in := instance(t, c, runInstance(t, c, makeNetwork(t, c)))
	if in.InstanceChargeType != "PostPaid" || in.SpotStrategy != "NoSpot" {
		t.Errorf("charge type %q, spot strategy %q; want PostPaid, NoSpot", in.InstanceChargeType, in.SpotStrategy)
	}
	if at, err := time.Parse("2006-01-02T15:04Z", in.ExpiredTime); err != nil || at.Year() != 2099 {
		t.Errorf("ExpiredTime %q (%v): want a minute of 2099", in.ExpiredTime, err)
	}
}

// The life of an ENI, through the official SDK.
func TestENIThroughTheSDK(t *testing.T) {
	s := start(t)
	c := connect(t, s)
	n := makeNetwork(t, c)
	node := runInstance(t, c, n)
	free := vswitch(t, c, n.vswitch).AvailableIpAddressCount

	id := makeENI(t, c, n, func(r *ecs.CreateNetworkInterfaceRequest) {
		r.NetworkInterfaceName = "a name with space, ~ * + & = / é"
		r.Tag = &[]ecs.CreateNetworkInterfaceTag{{Key: "creator", Value: "terway"}, {Key: "terway.dev/node", Value: "node 1"}}
	})
	attach := ecs.CreateAttachNetworkInterfaceRequest()
	attach.NetworkInterfaceId, attach.InstanceId = id, node
	must(c.ecs.AttachNetworkInterface(attach))(t)
	waitENI(t, c, id, "InUse")
	addresses := must(assign(c, id, 3, "token-1"))(t)

	x := eni(t, c, id)
	if x.NetworkInterfaceName != "a name with space, ~ * + & = / é" {
		t.Errorf("name %q", x.NetworkInterfaceName)
	}
	if x.InstanceId != node || x.Attachment.InstanceId != node || x.Type != "Secondary" || x.VpcId != n.vpc || x.ZoneId != "cn-hangzhou-i" {
		t.Errorf("ENI %+v", x)
	}
	if len(x.Tags.Tag) != 2 || x.Tags.Tag[1].TagKey != "terway.dev/node" || x.Tags.Tag[1].TagValue != "node 1" {
		t.Errorf("tags %+v", x.Tags.Tag)
	}
	if len(x.PrivateIpSets.PrivateIpSet) != 4 || len(addresses) != 3 {
		t.Errorf("%d addresses on the ENI, %d answered", len(x.PrivateIpSets.PrivateIpSet), len(addresses))
	}
	for i, a := range x.PrivateIpSets.PrivateIpSet {
		if a.Primary != (a.PrivateIpAddress == x.PrivateIpAddress) || a.Primary != (i == 0) || !inside(t, "192.168.0.0/19", a.PrivateIpAddress) {
			t.Errorf("address %d: %+v, primary is %s", i, a, x.PrivateIpAddress)
		}
	}
	if now := vswitch(t, c, n.vswitch).AvailableIpAddressCount; now != free-4 {
		t.Errorf("%d addresses free, want %d", now, free-4)
	}

	unassign := ecs.CreateUnassignPrivateIpAddressesRequest()
	unassign.NetworkInterfaceId, unassign.PrivateIpAddress = id, &addresses
	must(c.ecs.UnassignPrivateIpAddresses(unassign))(t)
	detach := ecs.CreateDetachNetworkInterfaceRequest()
	detach.NetworkInterfaceId, detach.InstanceId = id, node
	must(c.ecs.DetachNetworkInterface(detach))(t)
	waitENI(t, c, id, "Available")
	del := ecs.CreateDeleteNetworkInterfaceRequest()
	del.NetworkInterfaceId = id
	must(c.ecs.DeleteNetworkInterface(del))(t)
	eventually(t, "the ENI is gone", func() bool {
		r := ecs.CreateDescribeNetworkInterfacesRequest()
		r.NetworkInterfaceId = &[]string{id}
		return len(must(c.ecs.DescribeNetworkInterfaces(r))(t).NetworkInterfaceSets.NetworkInterfaceSet) == 0
	})
	if now := vswitch(t, c, n.vswitch).AvailableIpAddressCount; now != free {
		t.Errorf("%d addresses free at the end, want %d", now, free)
	}
}

// darabonba's generic client signs with ACS3; typed v2 SDKs are built on it.
func TestACS3(t *testing.T) {
	s := start(t)
	n := makeNetwork(t, connect(t, s))
	client := acs3(t, s, s.Account().AccessKeySecret)
	made, err := client.call("2014-05-26", "CreateNetworkInterface", map[string]any{
		"RegionId": "http://nonsense", "VSwitchId": n.vswitch, "SecurityGroupIds": []string{n.group},
		"NetworkInterfaceName": "with space ~*+/é", "Description": "",
		"Tag": []map[string]any{{"Key": "a b", "Value": "c&d=e"}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	id := made["NetworkInterfaceId"]
	got, err := client.call("2014-05-26", "DescribeNetworkInterfaceAttribute", map[string]any{"NetworkInterfaceId": id, "Attribute": "basic"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got["NetworkInterfaceName"] != "with space ~*+/é" {
		t.Errorf("name %q", got["NetworkInterfaceName"])
	}
	// The same with parameters in the body.
	got, err = client.call("2016-04-28", "DescribeVSwitches", nil, map[string]any{"VSwitchId": n.vswitch, "VpcId": n.vpc})
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got["TotalCount"]) != "1" {
		t.Errorf("DescribeVSwitches with a form body: %v", got)
	}
	_, err = acs3(t, s, "wrong").call("2014-05-26", "DescribeRegions", nil, nil)
	var e *tea.SDKError
	if !errors.As(err, &e) || tea.StringValue(e.Code) != "SignatureDoesNotMatch" || tea.IntValue(e.StatusCode) != http.StatusForbidden {
		t.Errorf("wrong secret: %v", err)
	}
}

func TestErrorsAsTheSDKSeesThem(t *testing.T) {
	s := start(t)
	c := connect(t, s)
	a := s.Account()
	ask := func(credential auth.Credential) error {
		_, err := connectWith(t, s, credential).ecs.DescribeRegions(ecs.CreateDescribeRegionsRequest())
		return err
	}
	wantError(t, ask(credentials.NewAccessKeyCredential("LTAI5tNobody", "x")), "InvalidAccessKeyId.NotFound", 404)
	wantError(t, ask(credentials.NewAccessKeyCredential(a.AccessKeyID, "wrong")), "SignatureDoesNotMatch", 403)
	wantError(t, ask(credentials.NewStsTokenCredential(a.AccessKeyID, a.AccessKeySecret, "garbage")), "InvalidSecurityToken.Malformed", 403)

	_, err := c.ecs.DeleteNetworkInterface(ecs.CreateDeleteNetworkInterfaceRequest())
	wantError(t, err, "MissingParameter", 400)
	del := ecs.CreateDetachNetworkInterfaceRequest()
	del.NetworkInterfaceId, del.InstanceId = "eni-none", "i-none"
	_, err = c.ecs.DetachNetworkInterface(del)
	wantError(t, err, "InvalidEniId.NotFound", 404)

	generic := func(version, action string, params map[string]string) error {
		r := requests.NewCommonRequest()
		r.Domain, r.Version, r.ApiName, r.Scheme = c.ecs.Domain, version, action, "http"
		maps.Copy(r.QueryParams, params)
		_, err := c.ecs.ProcessCommonRequest(r)
		return err
	}
	wantError(t, generic("2014-05-26", "DescribeUnicorns", nil), "InvalidAction.NotFound", 404)
	wantError(t, generic("1999-01-01", "DescribeRegions", nil), "NoSuchVersion", 400)
	wantError(t, generic("2014-05-26", "RunInstances", map[string]string{"Amount": "many"}), "InvalidParameter", 400)
	wantError(t, generic("2014-05-26", "DescribeInstances", map[string]string{"InstanceIds": "i-1"}), "InvalidParameter", 400)
}

func TestPagesOfMoreThan100ENIs(t *testing.T) {
	s := start(t)
	c := connect(t, s)
	n := makeNetwork(t, c)
	want := map[string]bool{}
	for range 123 {
		r := ecs.CreateCreateNetworkInterfaceRequest()
		r.VSwitchId, r.SecurityGroupId = n.vswitch, n.group
		want[must(c.ecs.CreateNetworkInterface(r))(t).NetworkInterfaceId] = true
	}
	check := func(t *testing.T, got []string) {
		t.Helper()
		seen := map[string]bool{}
		for _, id := range got {
			if seen[id] || !want[id] {
				t.Errorf("%s: listed twice or never made", id)
			}
			seen[id] = true
		}
		if len(seen) != len(want) {
			t.Errorf("%d ENIs listed, want %d", len(seen), len(want))
		}
	}
	t.Run("tokens", func(t *testing.T) {
		var got []string
		token, pages := "", 0
		for {
			r := ecs.CreateDescribeNetworkInterfacesRequest()
			r.MaxResults, r.NextToken = requests.NewInteger(50), token
			a := must(c.ecs.DescribeNetworkInterfaces(r))(t)
			for _, x := range a.NetworkInterfaceSets.NetworkInterfaceSet {
				got = append(got, x.NetworkInterfaceId)
			}
			pages++
			if a.PageSize != 50 {
				t.Errorf("PageSize %d, want what was asked", a.PageSize)
			}
			if token = a.NextToken; token == "" {
				break
			}
		}
		check(t, got)
		if pages != 3 {
			t.Errorf("%d pages of 50, want 3", pages)
		}
	})
	t.Run("numbers", func(t *testing.T) {
		var got []string
		for page := 1; ; page++ {
			r := ecs.CreateDescribeNetworkInterfacesRequest()
			r.PageNumber, r.PageSize = requests.NewInteger(page), requests.NewInteger(100)
			a := must(c.ecs.DescribeNetworkInterfaces(r))(t)
			for _, x := range a.NetworkInterfaceSets.NetworkInterfaceSet {
				got = append(got, x.NetworkInterfaceId)
			}
			if a.TotalCount != 123 || a.PageSize != 100 || a.PageNumber != page {
				t.Fatalf("page %d: TotalCount %d, PageSize %d, PageNumber %d", page, a.TotalCount, a.PageSize, a.PageNumber)
			}
			if page*100 >= a.TotalCount {
				break
			}
		}
		check(t, got)
	})
	t.Run("default", func(t *testing.T) {
		a := must(c.ecs.DescribeNetworkInterfaces(ecs.CreateDescribeNetworkInterfacesRequest()))(t)
		if len(a.NetworkInterfaceSets.NetworkInterfaceSet) != 10 {
			t.Errorf("%d ENIs on a page that says nothing, want 10", len(a.NetworkInterfaceSets.NetworkInterfaceSet))
		}
	})
	t.Run("too large", func(t *testing.T) {
		r := vpc.CreateDescribeVSwitchesRequest()
		r.PageSize = requests.NewInteger(51)
		_, err := c.vpc.DescribeVSwitches(r)
		wantError(t, err, "InvalidParameter", 400)
	})
}

func TestSameTokenSameResult(t *testing.T) {
	s := start(t)
	c := connect(t, s)
	n := makeNetwork(t, c)
	make := func(name string) (string, error) {
		r := ecs.CreateCreateNetworkInterfaceRequest()
		r.VSwitchId, r.SecurityGroupId, r.ClientToken, r.NetworkInterfaceName = n.vswitch, n.group, "token-1", name
		a, err := c.ecs.CreateNetworkInterface(r)
		if err != nil {
			return "", err
		}
		return a.NetworkInterfaceId, nil
	}
	first := must(make("a"))(t)
	if again := must(make("a"))(t); again != first {
		t.Errorf("the same token made %s, then %s", first, again)
	}
	_, err := make("b")
	wantError(t, err, "IdempotentParameterMismatch", 400)
}

func TestThrottling(t *testing.T) {
	s := start(t, func(o *vpcsim.Options) {
		o.Throttle = openapi.Throttle{PerMinute: map[string]int{"DescribeVpcs": 3}}
	})
	c := connect(t, s)
	refused := 0
	for range 10 {
		if _, err := c.vpc.DescribeVpcs(vpc.CreateDescribeVpcsRequest()); err != nil {
			wantError(t, err, "Throttling", 400)
			refused++
		}
	}
	if refused < 6 || refused > 7 {
		t.Errorf("%d of 10 calls refused at 3 a minute", refused)
	}
	must(c.ecs.DescribeRegions(ecs.CreateDescribeRegionsRequest()))(t)
	if got := s.Stats().Snapshot()["DescribeVpcs"]; got.Calls != 10 || got.Throttled != refused || got.Errors != refused {
		t.Errorf("stats %+v after %d refusals", got, refused)
	}
}
