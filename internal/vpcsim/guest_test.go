package vpcsim_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	darabonba "github.com/alibabacloud-go/darabonba-openapi/v2/client"
	"github.com/alibabacloud-go/tea/tea"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/ecs"
	"github.com/aliyun/credentials-go/credentials"
	"github.com/vishvananda/netns"

	"terway.dev/terway/internal/testutil"
	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/fabric"
)

// guestEnv makes the test binary a program that runs in an instance.
const guestEnv = "VPCSIM_TEST_GUEST"

func TestMain(m *testing.M) {
	if os.Getenv(guestEnv) == "" {
		os.Exit(m.Run())
	}
	if err := guest(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// guest is a program as a tenant writes it: official SDKs, no key, the role's credentials from
// the metadata service.
func guest() error {
	credential, err := credentials.NewCredential(&credentials.Config{Type: tea.String("ecs_ram_role")})
	if err != nil {
		return err
	}
	got, err := credential.GetCredential()
	if err != nil {
		return fmt.Errorf("credentials from the metadata service: %w", err)
	}
	client, err := darabonba.NewClient(&darabonba.Config{
		Credential: credential, Protocol: tea.String("http"), Endpoint: tea.String(vpcsim.APIAddress),
	})
	if err != nil {
		return err
	}
	who, err := acs3Client{client}.call(stsVersion, "GetCallerIdentity", nil, nil)
	if err != nil {
		return fmt.Errorf("call with the role's credentials: %w", err)
	}
	fmt.Println(tea.StringValue(got.AccessKeyId), who["Arn"])
	r, err := http.Get("http://" + vpcsim.APIAddress + vpcsim.AdminPrefix + "/stats")
	if err != nil {
		return err
	}
	defer r.Body.Close()
	fmt.Println("admin", r.StatusCode)
	return nil
}

// withFabric starts a simulator whose instances are real namespaces.
func withFabric(t *testing.T, change ...func(*vpcsim.Options)) (*vpcsim.Server, *fabric.Fabric) {
	t.Helper()
	testutil.RequireRoot(t)
	f, err := fabric.New(fabric.Options{Prefix: fmt.Sprintf("vs%08x-", rand.Uint32()), Strict: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Destroy(); err != nil {
			t.Errorf("destroy the fabric: %v", err)
		}
	})
	change = append([]func(*vpcsim.Options){func(o *vpcsim.Options) { o.Fabric = vpcsim.Dataplane{Fabric: f} }}, change...)
	return start(t, change...), f
}

// runInside runs this test binary as a guest program in an instance.
func runInside(t *testing.T, f *fabric.Fabric, instanceID string) string {
	t.Helper()
	path, err := f.NetNSPath(instanceID)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), guestEnv+"=1", "HTTP_PROXY=", "http_proxy=")
	cmd.Stdout, cmd.Stderr = &out, &out
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // stays locked: the thread ends with the goroutine
		h, err := netns.GetFromPath(path)
		if err == nil {
			err = errors.Join(netns.Set(h), h.Close())
		}
		if err == nil {
			err = cmd.Run()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("program in instance %s: %v: %s", instanceID, err, out.String())
	}
	return out.String()
}

func TestProgramInAnInstance(t *testing.T) {
	s, f := withFabric(t)
	c := connect(t, s)
	n := makeNetwork(t, c)
	node := runInstance(t, c, n, func(r *ecs.RunInstancesRequest) { r.RamRoleName, r.HostName = "terway-role", "node-1" })
	out := runInside(t, f, node)
	want := "acs:ram::" + s.Account().OwnerID + ":assumed-role/terway-role/" + node
	if !strings.HasPrefix(out, "STS.") || !strings.Contains(out, want) {
		t.Errorf("the program printed %q, want an STS key and %s", out, want)
	}
	// The admin endpoint is not reachable from inside: its path is one of the API, without an
	// action.
	if !strings.Contains(out, "admin 400") {
		t.Errorf("the program printed for the admin endpoint: %q", out)
	}
	path, err := f.NetNSPath(node)
	if err != nil || !strings.HasSuffix(path, "node-1") {
		t.Errorf("namespace %s, err %v; want the host's name", path, err)
	}
}

// get requests a URL from an instance.
func get(t *testing.T, f *fabric.Fabric, instanceID, url string) string {
	t.Helper()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return f.Dial(ctx, instanceID, network, addr)
		},
	}}
	r, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// When a call of the API returns, the data plane has the change.
func TestCallsAreRealInTheFabric(t *testing.T) {
	s, f := withFabric(t)
	c := connect(t, s)
	n := makeNetwork(t, c)
	a, b := runInstance(t, c, n), runInstance(t, c, n)
	id := makeENI(t, c, n)
	attach := ecs.CreateAttachNetworkInterfaceRequest()
	attach.NetworkInterfaceId, attach.InstanceId = id, b
	must(c.ecs.AttachNetworkInterface(attach))(t)
	waitENI(t, c, id, "InUse")
	path, err := f.NetNSPath(b)
	if err != nil {
		t.Fatal(err)
	}
	link, err := exec.Command("nsenter", "--net="+path, "ip", "-o", "link", "show", "eth1").CombinedOutput()
	if err != nil || !strings.Contains(string(link), eni(t, c, id).MacAddress) {
		t.Errorf("eth1 of an instance with an InUse ENI %s: %s (%v)", eni(t, c, id).MacAddress, link, err)
	}

	// An address on b's primary ENI is reachable from a, and no longer after it is unassigned.
	primary := instance(t, c, b).NetworkInterfaces.NetworkInterface[0].NetworkInterfaceId
	extra := must(assign(c, primary, 1, ""))(t)[0]
	if out, err := exec.Command("nsenter", "--net="+path, "ip", "address", "add", extra+"/32", "dev", "eth0").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l, err := f.Listen(b, "tcp", extra+":8080")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	dial := func(timeout time.Duration) error {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		conn, err := f.Dial(ctx, a, "tcp", extra+":8080")
		if err == nil {
			conn.Close()
		}
		return err
	}
	if err := dial(5 * time.Second); err != nil {
		t.Errorf("an assigned address is not reached: %v", err)
	}
	r := ecs.CreateUnassignPrivateIpAddressesRequest()
	r.NetworkInterfaceId, r.PrivateIpAddress = primary, &[]string{extra}
	must(c.ecs.UnassignPrivateIpAddresses(r))(t)
	if err := dial(500 * time.Millisecond); err == nil {
		t.Error("an unassigned address still answers")
	}

	if got := get(t, f, a, "http://100.100.100.200/latest/meta-data/instance-id"); got != a {
		t.Errorf("instance %s reads in its metadata that it is %s", a, got)
	}
	stop := ecs.CreateStopInstanceRequest()
	stop.InstanceId, stop.ForceStop = a, requests.NewBoolean(true)
	must(c.ecs.StopInstance(stop))(t)
	eventually(t, "the instance is Stopped", func() bool { return instance(t, c, a).Status == "Stopped" })
	again := ecs.CreateStartInstanceRequest()
	again.InstanceId = a
	must(c.ecs.StartInstance(again))(t)
	eventually(t, "the instance is Running", func() bool { return instance(t, c, a).Status == "Running" })
	if got := get(t, f, a, "http://100.100.100.200/latest/meta-data/instance-id"); got != a {
		t.Errorf("after a restart instance %s reads that it is %s", a, got)
	}
}

// A restarted simulator finds the instances as they were and serves them again.
func TestRestartWithFabric(t *testing.T) {
	dir := t.TempDir()
	s, f := withFabric(t, func(o *vpcsim.Options) { o.StateDir = dir })
	c := connect(t, s)
	n := makeNetwork(t, c)
	node := runInstance(t, c, n)
	before, err := f.NetNSPath(node)
	if err != nil {
		t.Fatal(err)
	}
	s = reopen(t, s)
	if after, err := f.NetNSPath(node); err != nil || after != before {
		t.Errorf("namespace %s after the restart, was %s (%v)", after, before, err)
	}
	if got := get(t, f, node, "http://100.100.100.200/latest/meta-data/instance-id"); got != node {
		t.Errorf("instance %s reads that it is %s", node, got)
	}
	if got := string(admin(t, s, "GET", "/fabric", "")); !strings.Contains(got, before) || !strings.Contains(got, `"device":`) {
		t.Errorf("fabric report: %s", got)
	}
}
