package vpcsim

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/auth/credentials"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/ecs"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/catalog/catalogtest"
	"terway.dev/terway/internal/vpcsim/state"
)

// serveIt runs `vpcsim serve` until the test ends, and reads its first line.
func serveIt(t *testing.T, args ...string) Started {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	out, in := io.Pipe()
	c := NewCommand()
	c.SetArgs(append([]string{"serve", "-o", "json"}, args...))
	c.SetOut(in)
	c.SetErr(io.Discard)
	done := make(chan error, 1)
	go func() {
		err := c.ExecuteContext(ctx)
		in.CloseWithError(io.EOF)
		done <- err
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		t.Fatalf("first line: %v", err)
	}
	var s Started
	if err := json.Unmarshal(line, &s); err != nil {
		t.Fatalf("first line %q: %v", line, err)
	}
	return s
}

func run(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	c := NewCommand()
	c.SetArgs(args)
	c.SetIn(strings.NewReader(stdin))
	c.SetOut(&out)
	c.SetErr(io.Discard)
	err := c.Execute()
	return out.String(), err
}

func ecsClient(t *testing.T, s Started) *ecs.Client {
	t.Helper()
	c, err := ecs.NewClientWithOptions(s.Region, sdk.NewConfig().WithScheme("HTTP").WithAutoRetry(false),
		credentials.NewAccessKeyCredential(s.AccessKeyID, s.AccessKeySecret))
	if err != nil {
		t.Fatal(err)
	}
	c.Domain = strings.TrimPrefix(s.Endpoint, "http://")
	return c
}

func regions(t *testing.T, s Started) error {
	t.Helper()
	_, err := ecsClient(t, s).DescribeRegions(ecs.CreateDescribeRegionsRequest())
	return err
}

func TestServeAndFaults(t *testing.T) {
	file := filepath.Join(t.TempDir(), "faults.json")
	if err := os.WriteFile(file, []byte(`{"name":"first","error":{"code":"Throttling"},"count":1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := serveIt(t, "--no-fabric", "--state", dir, "--faults", file, "--timing", "zero", "--region", "cn-beijing", "--zones", "cn-beijing-l,cn-beijing-k")
	if s.Region != "cn-beijing" || s.Zone != "cn-beijing-l" || len(s.Zones) != 2 || s.AccessKeyID == "" || s.AccessKeySecret == "" {
		t.Errorf("first line %+v", s)
	}
	if err := regions(t, s); err == nil || !strings.Contains(err.Error(), "Throttling") {
		t.Errorf("call with the fault of --faults: %v", err)
	}
	if err := regions(t, s); err != nil {
		t.Errorf("second call: %v", err)
	}
	if _, err := run(t, `{"name":"second","error":{"code":"ServiceUnavailable","status":503}}`, "faults", "add", "-", "--endpoint", s.Endpoint); err != nil {
		t.Fatal(err)
	}
	if err := regions(t, s); err == nil || !strings.Contains(err.Error(), "ServiceUnavailable") {
		t.Errorf("call with the fault of `faults add`: %v", err)
	}
	if out, err := run(t, "", "faults", "list", "--endpoint", s.Endpoint); err != nil || !strings.Contains(out, `"second"`) {
		t.Errorf("faults list: %s, %v", out, err)
	}
	if _, err := run(t, "", "faults", "remove", "second", "--endpoint", s.Endpoint); err != nil {
		t.Error(err)
	}
	if _, err := run(t, "", "faults", "remove", "second", "--endpoint", s.Endpoint); err == nil || !strings.Contains(err.Error(), "no fault rule") {
		t.Errorf("removing it again: %v", err)
	}
	if err := regions(t, s); err != nil {
		t.Errorf("last call: %v", err)
	}
}

// TestCatalogue: the cloud has exactly the instance types of the table.
func TestCatalogue(t *testing.T) {
	known, _ := catalog.Lookup("ecs.g6.2xlarge")
	known.Name = "ecs.g99.2xlarge"
	s := serveIt(t, "--no-fabric", "--catalogue", catalogtest.Table(t, known))
	rsp, err := ecsClient(t, s).DescribeInstanceTypes(ecs.CreateDescribeInstanceTypesRequest())
	if err != nil {
		t.Fatal(err)
	}
	if all := rsp.InstanceTypes.InstanceType; len(all) != 1 || all[0].InstanceTypeId != known.Name {
		t.Errorf("the cloud has %d types: %+v", len(all), all)
	}
}

func TestBadFlags(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"--timing attach", "--timing"},
		{"--timing attack=1s", "want one of create, attach"},
		{"--timing attach=-1s", "--timing"},
		{"--throttle-scale 0", "--throttle-scale"},
		{"--log-level loud", "--log-level"},
		{"-o xml", "--output"},
		{"--faults /nonexistent/faults", "read fault rules"},
		{"--catalogue /nonexistent/types", "--catalogue"},
	} {
		_, err := run(t, "", append([]string{"serve", "--no-fabric"}, strings.Fields(c.args)...)...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", c.args, err, c.want)
		}
	}
}

func TestTiming(t *testing.T) {
	real := state.DefaultTiming()
	changed := real
	changed.AttachENI, changed.RouteEntry = time.Minute, 0
	fast := real.AttachENI / 10
	for text, want := range map[string]state.Timing{"real": real, "zero": {}, "attach=1m,route=0s": changed} {
		if got, err := parseTiming(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	if names, fields := len(timings(new(state.Timing))), reflect.TypeFor[state.Timing]().NumField(); names != fields {
		t.Errorf("%d of %d durations have a name", names, fields)
	}
	if got, err := parseTiming("fast"); err != nil || got.AttachENI != fast {
		t.Errorf("fast: %+v, %v", got, err)
	}
}
