package alibaba

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aliyun/credentials-go/credentials/providers"

	"terway.dev/terway/internal/cloud"
)

func TestListsReadAllPages(t *testing.T) {
	const total = 120
	f := newFakeCloud(t, func(_ int, q url.Values) answer {
		var number, size int
		if _, err := fmt.Sscan(q.Get("PageNumber")+" "+q.Get("PageSize"), &number, &size); err != nil {
			t.Error(err)
		}
		var items []string
		for i := (number - 1) * size; i < min(number*size, total); i++ {
			items = append(items, fmt.Sprintf(`{"VSwitchId":"vsw-%d","VpcId":"vpc-1","CidrBlock":"10.0.%d.0/24","Status":"Available","Tags":{"Tag":[{"Key":"a","Value":"b"}]}}`, i, i))
		}
		return ok(fmt.Sprintf(`{"RequestId":"R","TotalCount":%d,"PageNumber":%d,"PageSize":%d,"VSwitches":{"VSwitch":[%s]}}`, total, number, size, strings.Join(items, ",")))
	})
	all, err := newTestClient(t, f).ListVSwitches(t.Context(), "vpc-1")
	if err != nil || len(all) != total || all[119].ID != "vsw-119" || all[119].Tags["a"] != "b" || all[119].Status != cloud.StatusAvailable {
		t.Errorf("%d vSwitches, %v", len(all), err)
	}
	if len(f.calls) != 3 {
		t.Errorf("%d calls, want 3", len(f.calls))
	}
}

// AssociateVpcCidrBlock has no token: after a lost answer the range exists, and the repeated
// call is refused.
func TestAddCIDRAfterALostAnswer(t *testing.T) {
	vpc := func(secondary string) answer {
		return ok(`{"RequestId":"R","TotalCount":1,"Vpcs":{"Vpc":[{"VpcId":"vpc-1","CidrBlock":"192.168.0.0/16","Status":"Available","SecondaryCidrBlocks":{"SecondaryCidrBlock":[` + secondary + `]}}]}}`)
	}
	for secondary, want := range map[string]string{`"10.0.0.0/16"`: "", ``: "InvalidCidrBlock.Overlapped"} {
		f := newFakeCloud(t, byAction(map[string][]answer{
			"AssociateVpcCidrBlock": {{cut: true}, no(400, "InvalidCidrBlock.Overlapped")},
			"DescribeVpcs":          {vpc(secondary)},
		}))
		err := newTestClient(t, f).AddCIDR(t.Context(), "vpc-1", netip.MustParsePrefix("10.0.0.0/16"))
		if cloud.CodeOf(err) != want || (err == nil) != (want == "") {
			t.Errorf("secondary ranges [%s]: %v, want %q", secondary, err, want)
		}
	}
}

func TestCreatesNeedAToken(t *testing.T) {
	f := newFakeCloud(t, func(int, url.Values) answer { return ok(`{}`) })
	c := newTestClient(t, f)
	for what, make := range map[string]func() (string, error){
		"VPC":            func() (string, error) { return c.CreateVPC(t.Context(), cloud.CreateVPCRequest{}) },
		"vSwitch":        func() (string, error) { return c.CreateVSwitch(t.Context(), cloud.CreateVSwitchRequest{}) },
		"security group": func() (string, error) { return c.CreateSecurityGroup(t.Context(), cloud.CreateSecurityGroupRequest{}) },
	} {
		if _, err := make(); err == nil || !strings.Contains(err.Error(), "a second "+what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if len(f.calls) > 0 {
		t.Errorf("%d calls were sent", len(f.calls))
	}
}

func TestGoneIsNoError(t *testing.T) {
	f := newFakeCloud(t, byAction(map[string][]answer{
		"DeleteVpc":           {no(404, "InvalidVpcId.NotFound")},
		"DeleteVSwitch":       {no(404, "InvalidVSwitchId.NotFound")},
		"DeleteSecurityGroup": {no(404, "InvalidSecurityGroupId.NotFound")},
	}))
	c := newTestClient(t, f)
	for i, err := range []error{c.DeleteVPC(t.Context(), "x"), c.DeleteVSwitch(t.Context(), "x"), c.DeleteSecurityGroup(t.Context(), "x")} {
		if err != nil {
			t.Errorf("delete number %d: %v", i, err)
		}
	}
}

// Only rules that allow all traffic count.
func TestAllowedFrom(t *testing.T) {
	rule := func(protocol, policy, from, to string) string {
		return fmt.Sprintf(`{"IpProtocol":%q,"Policy":%q,"SourceCidrIp":%q,"DestCidrIp":%q,"PortRange":"-1/-1","Priority":"1"}`, protocol, policy, from, to)
	}
	rules := []string{rule("ALL", "Accept", "10.0.0.0/16", ""), rule("TCP", "Accept", "10.1.0.0/16", ""), rule("all", "Drop", "10.2.0.0/16", ""),
		rule("ALL", "Accept", "10.3.0.0/16", "10.0.0.0/24"), rule("ALL", "Accept", "", ""), rule("all", "accept", "10.4.0.1", "")}
	f := newFakeCloud(t, func(n int, _ url.Values) answer {
		next := []string{`"more"`, `""`}[n]
		return ok(`{"RequestId":"R","NextToken":` + next + `,"Permissions":{"Permission":[` + strings.Join(rules[3*n:3*n+3], ",") + `]}}`)
	})
	got, err := newTestClient(t, f).AllowedFrom(t.Context(), "sg-1")
	want := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("10.4.0.1/32")}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
}

// The chain tries the environment first, and prints no secret.
func TestChainCredentials(t *testing.T) {
	t.Setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", testKey)
	t.Setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", testSecret)
	t.Setenv("ALIBABA_CLOUD_SECURITY_TOKEN", "token-of-the-test")
	source := ChainCredentials()
	c, err := source.Get(t.Context())
	if err != nil || c.AccessKeyID != testKey || c.AccessKeySecret != testSecret || c.SecurityToken != "token-of-the-test" {
		t.Errorf("credential %s, %v: not the environment's", c.AccessKeyID, err)
	}
	if said := fmt.Sprintf("%v %+v %#v", source, source, source); strings.Contains(said, testSecret) || strings.Contains(said, "token-of") {
		t.Errorf("the secret is printed: %s", said)
	}
}

// slowProvider answers when the test lets it.
type slowProvider struct {
	asked   atomic.Int32
	answers chan struct{}
}

func (p *slowProvider) GetCredentials() (*providers.Credentials, error) {
	p.asked.Add(1)
	<-p.answers
	return &providers.Credentials{AccessKeyId: testKey, AccessKeySecret: testSecret}, nil
}

func (p *slowProvider) GetProviderName() string { return "slow" }

// A place that does not answer blocks no caller longer than its context; callers that still
// wait get the answer of one shared request.
func TestChainCredentialsSlowPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &slowProvider{answers: make(chan struct{})}
		s := &chainSource{places: []place{{name: "slow place", missing: func() string { return "" },
			open: func() (providers.CredentialsProvider, error) { return slow, nil }}}}
		for round := range 2 { // the search, and a renewal
			patient := make(chan error)
			go func() {
				c, err := s.Get(t.Context())
				if err == nil && c.AccessKeyID != testKey {
					err = fmt.Errorf("credential %s", c)
				}
				patient <- err
			}()
			synctest.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := s.Get(ctx)
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "the slow place has not answered") {
				t.Errorf("%v: want that time was up, and which place was asked", err)
			}
			slow.answers <- struct{}{}
			if err := <-patient; err != nil {
				t.Error(err)
			}
			if n := int(slow.asked.Load()); n != round+1 {
				t.Errorf("the place was asked %d times for %d looks", n, round+1)
			}
		}
	})
}

// Without a credential the error has a line for each place, without its contents.
func TestChainCredentialsNone(t *testing.T) {
	for _, name := range []string{
		"ALIBABA_CLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_SECRET", "ALIBABA_CLOUD_OIDC_TOKEN", "ALIBABA_CLOUD_OIDC_TOKEN_FILE",
		"ALIBABA_CLOUD_OIDC_PROVIDER_ARN", "ALIBABA_CLOUD_ROLE_ARN", "ALIBABA_CLOUD_CONFIG_FILE", "ALIBABA_CLOUD_CREDENTIALS_FILE",
		"ALIBABA_CLOUD_PROFILE", "ALIBABA_CLOUD_CREDENTIALS_URI", "ALIBABA_CLOUD_CLI_PROFILE_DISABLED",
	} {
		t.Setenv(name, "")
	}
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("ALIBABA_CLOUD_ECS_METADATA_DISABLED", "true")
	t.Setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", testKey)
	source := ChainCredentials()
	said := func() string {
		_, err := source.Get(t.Context())
		if err == nil {
			t.Fatal("there is a credential")
		}
		return err.Error()
	}
	want := `set ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET, or run aliyun configure; looked at:
  environment          ALIBABA_CLOUD_ACCESS_KEY_SECRET not set
  RRSA                 ALIBABA_CLOUD_OIDC_TOKEN_FILE and ALIBABA_CLOUD_OIDC_PROVIDER_ARN and ALIBABA_CLOUD_ROLE_ARN not set
  aliyun profile       no file ` + home + `/.aliyun/config.json
  credentials file     no file ` + home + `/.alibabacloud/credentials
  instance's RAM role  switched off by ALIBABA_CLOUD_ECS_METADATA_DISABLED
  credentials URI      ALIBABA_CLOUD_CREDENTIALS_URI not set`
	if got := said(); got != want {
		t.Errorf("said\n%s\nwant\n%s", got, want)
	}

	write := func(name, content string) {
		path := filepath.Join(home, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	write(".aliyun/config.json", `{"access_key_secret": "`+testSecret+`" no JSON`)
	write(".alibabacloud/credentials", "["+testSecret)
	got := said()
	for _, want := range []string{
		"aliyun profile       " + home + "/.aliyun/config.json gives none: aliyun configure list shows its profiles\n",
		"credentials file     " + home + `/.alibabacloud/credentials gives none: look at its section "default"` + "\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("said\n%s\nwithout %q", got, want)
		}
	}
	if strings.Contains(got, testSecret) {
		t.Errorf("the secret is printed: %s", got)
	}

	// A credential that appears later is found.
	t.Setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", testSecret)
	if c, err := source.Get(t.Context()); err != nil || c.AccessKeyID != testKey {
		t.Errorf("credential %q, %v: want the environment's", c.AccessKeyID, err)
	}
}
