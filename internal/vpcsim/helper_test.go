package vpcsim_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	darabonba "github.com/alibabacloud-go/darabonba-openapi/v2/client"
	openapiutil "github.com/alibabacloud-go/darabonba-openapi/v2/utils"
	"github.com/alibabacloud-go/tea/dara"
	"github.com/alibabacloud-go/tea/tea"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/auth"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/auth/credentials"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/errors"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/ecs"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/vpc"

	"terway.dev/terway/internal/vpcsim"
)

// start runs a simulator without a fabric, in which operations take no time.
func start(t *testing.T, change ...func(*vpcsim.Options)) *vpcsim.Server {
	t.Helper()
	o := vpcsim.Options{Seed: 1}
	for _, f := range change {
		f(&o)
	}
	s, err := vpcsim.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// clients are the typed clients of the official SDK.
type clients struct {
	ecs *ecs.Client
	vpc *vpc.Client
}

func connect(t *testing.T, s *vpcsim.Server) clients {
	t.Helper()
	a := s.Account()
	return connectWith(t, s, credentials.NewAccessKeyCredential(a.AccessKeyID, a.AccessKeySecret))
}

func connectWith(t *testing.T, s *vpcsim.Server, credential auth.Credential) clients {
	t.Helper()
	config := sdk.NewConfig().WithScheme("HTTP").WithAutoRetry(false).WithTimeout(30 * time.Second)
	e, err := ecs.NewClientWithOptions(s.Region(), config, credential)
	if err != nil {
		t.Fatal(err)
	}
	v, err := vpc.NewClientWithOptions(s.Region(), config, credential)
	if err != nil {
		t.Fatal(err)
	}
	e.Domain = strings.TrimPrefix(s.Endpoint(), "http://")
	v.Domain = e.Domain
	return clients{ecs: e, vpc: v}
}

// network is a VPC with one vSwitch and one security group.
type network struct {
	vpc, vswitch, group, table string
}

func makeNetwork(t *testing.T, c clients) network {
	t.Helper()
	var n network
	cv := vpc.CreateCreateVpcRequest()
	cv.CidrBlock = "192.168.0.0/16"
	made := must(c.vpc.CreateVpc(cv))(t)
	n.vpc, n.table = made.VpcId, made.RouteTableId
	eventually(t, "the VPC is Available", func() bool {
		r := vpc.CreateDescribeVpcsRequest()
		r.VpcId = n.vpc
		all := must(c.vpc.DescribeVpcs(r))(t).Vpcs.Vpc
		return len(all) == 1 && all[0].Status == "Available"
	})
	n.vswitch = makeVSwitch(t, c, n.vpc, "192.168.0.0/19")
	sg := ecs.CreateCreateSecurityGroupRequest()
	sg.VpcId = n.vpc
	n.group = must(c.ecs.CreateSecurityGroup(sg))(t).SecurityGroupId
	return n
}

func makeVSwitch(t *testing.T, c clients, vpcID, cidr string) string {
	t.Helper()
	r := vpc.CreateCreateVSwitchRequest()
	r.VpcId, r.CidrBlock, r.ZoneId = vpcID, cidr, "cn-hangzhou-i"
	id := must(c.vpc.CreateVSwitch(r))(t).VSwitchId
	eventually(t, "the vSwitch is Available", func() bool {
		return vswitch(t, c, id).Status == "Available"
	})
	return id
}

func vswitch(t *testing.T, c clients, id string) vpc.VSwitch {
	t.Helper()
	r := vpc.CreateDescribeVSwitchesRequest()
	r.VSwitchId = id
	all := must(c.vpc.DescribeVSwitches(r))(t).VSwitches.VSwitch
	if len(all) != 1 {
		t.Fatalf("%d vSwitches %s", len(all), id)
	}
	return all[0]
}

func makeENI(t *testing.T, c clients, n network, change ...func(*ecs.CreateNetworkInterfaceRequest)) string {
	t.Helper()
	r := ecs.CreateCreateNetworkInterfaceRequest()
	r.VSwitchId, r.SecurityGroupId = n.vswitch, n.group
	for _, f := range change {
		f(r)
	}
	id := must(c.ecs.CreateNetworkInterface(r))(t).NetworkInterfaceId
	waitENI(t, c, id, "Available")
	return id
}

func eni(t *testing.T, c clients, id string) ecs.NetworkInterfaceSet {
	t.Helper()
	r := ecs.CreateDescribeNetworkInterfacesRequest()
	r.NetworkInterfaceId = &[]string{id}
	all := must(c.ecs.DescribeNetworkInterfaces(r))(t).NetworkInterfaceSets.NetworkInterfaceSet
	if len(all) != 1 {
		t.Fatalf("%d ENIs %s", len(all), id)
	}
	return all[0]
}

func waitENI(t *testing.T, c clients, id, status string) {
	t.Helper()
	eventually(t, "ENI "+id+" is "+status, func() bool { return eni(t, c, id).Status == status })
}

func runInstance(t *testing.T, c clients, n network, change ...func(*ecs.RunInstancesRequest)) string {
	t.Helper()
	r := ecs.CreateRunInstancesRequest()
	r.InstanceType, r.VSwitchId, r.SecurityGroupId, r.ImageId = "ecs.g6.2xlarge", n.vswitch, n.group, "aliyun_3_x64"
	r.Amount = requests.NewInteger(1)
	for _, f := range change {
		f(r)
	}
	ids := must(c.ecs.RunInstances(r))(t).InstanceIdSets.InstanceIdSet
	if len(ids) != 1 {
		t.Fatalf("%d instances, want 1", len(ids))
	}
	eventually(t, "instance "+ids[0]+" is Running", func() bool {
		return instance(t, c, ids[0]).Status == "Running"
	})
	return ids[0]
}

func instance(t *testing.T, c clients, id string) ecs.Instance {
	t.Helper()
	r := ecs.CreateDescribeInstancesRequest()
	ids, err := json.Marshal([]string{id})
	if err != nil {
		t.Fatal(err)
	}
	r.InstanceIds = string(ids)
	all := must(c.ecs.DescribeInstances(r))(t).Instances.Instance
	if len(all) != 1 {
		t.Fatalf("%d instances %s", len(all), id)
	}
	return all[0]
}

func assign(c clients, eniID string, n int, token string) ([]string, error) {
	r := ecs.CreateAssignPrivateIpAddressesRequest()
	r.NetworkInterfaceId, r.ClientToken = eniID, token
	r.SecondaryPrivateIpAddressCount = requests.NewInteger(n)
	a, err := c.ecs.AssignPrivateIpAddresses(r)
	if err != nil {
		return nil, err
	}
	return a.AssignedPrivateIpAddressesSet.PrivateIpSet.PrivateIpAddress, nil
}

// must fails the test when a call did.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// wantError checks code and status of the SDK's error.
func wantError(t *testing.T, err error, code string, status int) {
	t.Helper()
	e, ok := err.(errors.Error)
	if !ok || e.ErrorCode() != code || e.HttpStatus() != status {
		t.Errorf("error %v, want %s with status %d", err, code, status)
	}
}

// eventually waits for the result of an asynchronous operation.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// reopen closes a server and starts another on the same directory.
func reopen(t *testing.T, s *vpcsim.Server) *vpcsim.Server {
	t.Helper()
	o := s.Options
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return start(t, func(n *vpcsim.Options) { *n = o })
}

func inside(t *testing.T, cidr, address string) bool {
	t.Helper()
	return netip.MustParsePrefix(cidr).Contains(netip.MustParseAddr(address))
}

func admin(t *testing.T, s *vpcsim.Server, method, path, body string) []byte {
	t.Helper()
	r, err := http.NewRequest(method, s.Endpoint()+vpcsim.AdminPrefix+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	var b strings.Builder
	if _, err := io.Copy(&b, a.Body); err != nil {
		t.Fatal(err)
	}
	if a.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %d %s", method, path, a.StatusCode, b.String())
	}
	return []byte(b.String())
}

// acs3Client is the generic client of darabonba, on which the typed v2 SDKs are based.
type acs3Client struct {
	*darabonba.Client
}

func acs3(t *testing.T, s *vpcsim.Server, secret string) acs3Client {
	t.Helper()
	return acs3With(t, s, &darabonba.Config{
		AccessKeyId: tea.String(s.Account().AccessKeyID), AccessKeySecret: tea.String(secret),
	})
}

func acs3With(t *testing.T, s *vpcsim.Server, config *darabonba.Config) acs3Client {
	t.Helper()
	config.Protocol, config.Endpoint = tea.String("http"), tea.String(strings.TrimPrefix(s.Endpoint(), "http://"))
	c, err := darabonba.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	return acs3Client{c}
}

func (c acs3Client) call(version, action string, query, form map[string]any) (map[string]any, error) {
	r := &darabonba.OpenApiRequest{Query: openapiutil.Query(query)}
	if form != nil {
		r.Body = openapiutil.ParseToMap(form)
	}
	a, err := c.CallApi(&darabonba.Params{
		Action: tea.String(action), Version: tea.String(version), Protocol: tea.String("https"), Pathname: tea.String("/"),
		Method: tea.String("POST"), AuthType: tea.String("AK"), Style: tea.String("RPC"),
		ReqBodyType: tea.String("formData"), BodyType: tea.String("json"),
	}, r, &dara.RuntimeOptions{})
	if err != nil {
		return nil, err
	}
	return a["body"].(map[string]any), nil
}
