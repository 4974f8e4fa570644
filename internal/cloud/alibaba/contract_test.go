package alibaba_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/cloud/alibaba"
	"terway.dev/terway/internal/cloud/cloudtest"
	"terway.dev/terway/internal/testutil/testclock"
	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/faults"
	"terway.dev/terway/internal/vpcsim/metadata"
	"terway.dev/terway/internal/vpcsim/openapi/sts"
	"terway.dev/terway/internal/vpcsim/state"
)

func TestContract(t *testing.T) { cloudtest.Run(t, simulated) }

// simulated returns a new simulated cloud, without a fabric.
func simulated(t *testing.T) *cloudtest.Env {
	t.Helper()
	sim, err := vpcsim.New(vpcsim.Options{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	})
	const instanceType = "ecs.g6.large"
	e := &cloudtest.Env{
		Zone: "cn-hangzhou-i", CIDR: netip.MustParsePrefix("192.168.0.0/16"), VSwitchCIDR: netip.MustParsePrefix("192.168.32.0/19"),
		InstanceType: instanceType, ENIs: 2, IPv4PerENI: 6,
	}
	write(t, sim, func(a state.API) error {
		v, err := a.CreateVpc(state.CreateVpcRequest{CidrBlock: e.CIDR.String()})
		if err != nil {
			return err
		}
		e.VPC = v.VpcId
		return nil
	})
	write(t, sim, func(a state.API) (err error) {
		if e.VSwitch, err = a.CreateVSwitch(state.CreateVSwitchRequest{VpcId: e.VPC, ZoneId: e.Zone, CidrBlock: e.VSwitchCIDR.String()}); err != nil {
			return err
		}
		e.SecurityGroup, err = a.CreateSecurityGroup(state.CreateSecurityGroupRequest{VpcId: e.VPC})
		return err
	})
	write(t, sim, func(a state.API) (err error) {
		e.Small, err = a.CreateVSwitch(state.CreateVSwitchRequest{VpcId: e.VPC, ZoneId: e.Zone, CidrBlock: "192.168.64.0/28"})
		return err
	})
	write(t, sim, func(a state.API) error {
		two := 2
		ids, err := a.RunInstances(state.RunInstancesRequest{Amount: &two, InstanceType: instanceType, VSwitchId: e.VSwitch, SecurityGroupId: e.SecurityGroup, ImageId: "none"})
		if err != nil {
			return err
		}
		e.Instance, e.Other = ids[0], ids[1]
		return nil
	})
	account := sim.Account()
	client := func(t *testing.T, creds alibaba.CredentialSource) cloud.API {
		c, err := alibaba.New(alibaba.Config{Region: sim.Region(), ECSEndpoint: sim.Endpoint(), VPCEndpoint: sim.Endpoint(), Credentials: creds})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	e.API = client(t, alibaba.StaticCredentials(account.AccessKeyID, account.AccessKeySecret))
	e.Fault = func(t *testing.T, f cloudtest.Fault) {
		rule := faults.Rule{Action: f.Action, Count: f.Count, LostAnswer: f.LostAnswer}
		if f.Code != "" {
			rule.Error = &faults.Error{Code: f.Code, Status: f.Status}
		}
		if err := sim.AddFaults(rule); err != nil {
			t.Fatal(err)
		}
	}
	e.Fill = func(t *testing.T, vSwitch string) {
		if err := sim.AddFaults(faults.Rule{VSwitchFull: []string{vSwitch}}); err != nil {
			t.Fatal(err)
		}
	}
	e.Many = func(t *testing.T, n int, tag, value string) {
		write(t, sim, func(a state.API) error {
			for range n {
				if _, err := a.CreateNetworkInterface(state.CreateNetworkInterfaceRequest{VSwitchId: e.VSwitch, SecurityGroupId: e.SecurityGroup,
					Tag: []state.Tag{{Key: tag, Value: value}}}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	e.As = func(t *testing.T, c cloudtest.Credential) cloud.API {
		switch c {
		case cloudtest.UnknownKey:
			return client(t, alibaba.StaticCredentials("LTAIunknown", account.AccessKeySecret))
		case cloudtest.WrongSecret:
			return client(t, alibaba.StaticCredentials(account.AccessKeyID, "wrong"))
		}
		old := sts.NewAuthority(account).Mint("role", "session", time.Now().Add(-2*time.Hour), time.Hour)
		return client(t, fixed{alibaba.Credential{AccessKeyID: old.AccessKeyID, AccessKeySecret: old.AccessKeySecret, SecurityToken: old.SecurityToken}})
	}
	return e
}

func write(t *testing.T, sim *vpcsim.Server, f func(state.API) error) {
	t.Helper()
	if err := sim.Write(t.Context(), f); err != nil {
		t.Fatal(err)
	}
}

type fixed struct{ cred alibaba.Credential }

func (f fixed) Get(context.Context) (alibaba.Credential, error) { return f.cred, nil }
func (f fixed) Forget(alibaba.Credential)                       {}

// The simulated cloud issues and accepts the credentials of roles.
func TestRoles(t *testing.T) {
	now := time.Now()
	clock := testclock.New(now)
	sim, err := vpcsim.New(vpcsim.Options{Seed: 1, Now: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	})
	authority := sts.NewAuthority(sim.Account())
	service := httptest.NewServer(metadata.New(metadata.Options{
		InstanceID: "i-1", Authority: authority, Now: clock.Now, RoleLife: time.Hour, Log: slog.New(slog.DiscardHandler),
		Lookup: func(id string) (*metadata.Instance, error) {
			i := &metadata.Instance{OwnerID: sim.Account().OwnerID}
			i.InstanceId, i.RamRoleName, i.HttpTokens = id, "terway", "required"
			return i, nil
		},
	}))
	t.Cleanup(service.Close)

	role, err := alibaba.ECSRoleCredentials(alibaba.ECSRoleConfig{Endpoint: service.URL, Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	token := filepath.Join(t.TempDir(), "token")
	rotate := func() {
		claims := fmt.Sprintf(`{"iss":"https://oidc","sub":"system:serviceaccount:kube-system:terway-controller","aud":"sts.aliyuncs.com","exp":%d}`, clock.Now().Add(time.Hour).Unix())
		part := base64.RawURLEncoding.EncodeToString
		if err := os.WriteFile(token, []byte(part([]byte(`{"alg":"RS256"}`))+"."+part([]byte(claims))+"."+part([]byte("signature"))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rotate()
	rrsa, err := alibaba.RRSACredentials(alibaba.RRSAConfig{TokenFile: token, RoleARN: "acs:ram::" + sim.Account().OwnerID + ":role/terway",
		ProviderARN: "acs:ram::" + sim.Account().OwnerID + ":oidc-provider/ack", Endpoint: sim.Endpoint(), Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	for name, source := range map[string]alibaba.CredentialSource{"RAM role": role, "RRSA": rrsa} {
		c, err := alibaba.New(alibaba.Config{Region: sim.Region(), ECSEndpoint: sim.Endpoint(), VPCEndpoint: sim.Endpoint(), Credentials: source})
		if err != nil {
			t.Fatal(err)
		}
		for range 4 { // beyond the expiry of several credentials
			if _, err := c.DescribeENIs(t.Context(), cloud.ENIFilter{}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			clock.Step(50 * time.Minute)
			rotate()
		}
	}
}
