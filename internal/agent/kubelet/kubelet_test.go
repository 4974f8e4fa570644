package kubelet

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	plugins "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	resources "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// fakeKubelet implements the kubelet's side; the lab's checks use the real one.
type fakeKubelet struct {
	plugins.UnimplementedRegistrationServer
	resources.UnimplementedPodResourcesListerServer
	dir        string
	registered chan *plugins.RegisterRequest
	pods       []*resources.PodResources
	server     *grpc.Server
}

func newKubelet(t *testing.T, dir string) *fakeKubelet {
	t.Helper()
	k := &fakeKubelet{dir: dir, registered: make(chan *plugins.RegisterRequest, 8)}
	l, err := net.Listen("unix", filepath.Join(dir, kubeletName))
	if err != nil {
		t.Fatal(err)
	}
	k.server = grpc.NewServer()
	plugins.RegisterRegistrationServer(k.server, k)
	resources.RegisterPodResourcesListerServer(k.server, k)
	go k.server.Serve(l)
	t.Cleanup(k.server.Stop)
	return k
}

func (k *fakeKubelet) Register(_ context.Context, r *plugins.RegisterRequest) (*plugins.Empty, error) {
	k.registered <- r
	return &plugins.Empty{}, nil
}

func (k *fakeKubelet) List(context.Context, *resources.ListPodResourcesRequest) (*resources.ListPodResourcesResponse, error) {
	return &resources.ListPodResourcesResponse{PodResources: k.pods}, nil
}

// devices watches the plugin as the kubelet does.
func (k *fakeKubelet) devices(t *testing.T, endpoint string) grpc.ServerStreamingClient[plugins.ListAndWatchResponse] {
	t.Helper()
	conn, err := dial(filepath.Join(k.dir, endpoint))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	s, err := plugins.NewDevicePluginClient(conn).ListAndWatch(t.Context(), &plugins.Empty{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	var v T
	select {
	case v = <-c:
	case <-time.After(20 * time.Second):
		t.Fatal("nothing came")
	}
	return v
}

func TestPluginRegistersReportsAndSurvivesTheKubelet(t *testing.T) {
	dir := t.TempDir()
	k := newKubelet(t, dir)
	p := &Plugin{Dir: dir, Resource: "aliyun/eni", Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan bool, 1)
	go func() { p.Run(ctx); done <- true }()
	p.Set(2)
	r := receive(t, k.registered)
	if r.ResourceName != "aliyun/eni" || r.Version != "v1beta1" {
		t.Errorf("registered %v", r)
	}
	s := k.devices(t, r.Endpoint)
	for _, want := range []int{2, 3, 0} {
		p.Set(want)
		for {
			list, err := s.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if len(list.Devices) == want {
				break
			}
		}
	}
	// A restarted kubelet removes every plugin's socket.
	if err := os.Remove(filepath.Join(dir, r.Endpoint)); err != nil {
		t.Fatal(err)
	}
	receive(t, k.registered)
	cancel()
	receive(t, done)
}

func TestPluginOfANodeWithoutENIsIsSilent(t *testing.T) {
	dir := t.TempDir()
	p := &Plugin{Dir: dir, Resource: "aliyun/eni", Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan bool, 1)
	go func() { p.Run(ctx); done <- true }()
	p.Set(0)
	cancel()
	receive(t, done)
	if files, err := os.ReadDir(dir); err != nil || len(files) != 0 {
		t.Errorf("files %v, error %v", files, err)
	}
}

func TestAllocateAnswersEachContainer(t *testing.T) {
	a, err := (&Plugin{}).Allocate(t.Context(), &plugins.AllocateRequest{ContainerRequests: []*plugins.ContainerAllocateRequest{{}, {}}})
	if err != nil || len(a.ContainerResponses) != 2 {
		t.Errorf("%v, %v", a, err)
	}
}

func TestResources(t *testing.T) {
	dir := t.TempDir()
	k := newKubelet(t, dir)
	with := func(name, resource string, ids ...string) *resources.PodResources {
		return &resources.PodResources{Namespace: "default", Name: name, Containers: []*resources.ContainerResources{
			{Name: "side"}, {Name: "main", Devices: []*resources.ContainerDevices{{ResourceName: resource, DeviceIds: ids}}}}}
	}
	k.pods = []*resources.PodResources{with("own", "aliyun/eni", "eni-0"), with("gpu", "example.com/gpu", "0"), with("none", "aliyun/eni"),
		with("twice", "aliyun/eni", "eni-1"), with("twice", "aliyun/eni")}
	r, err := NewResources(filepath.Join(dir, kubeletName), "aliyun/eni")
	if err != nil {
		t.Fatal(err)
	}
	defer r.conn.Close()
	for name, want := range map[string]bool{"own": true, "gpu": false, "none": false} {
		if got, err := r.Has(t.Context(), "default", name); err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", name, got, err, want)
		}
	}
	// A kubelet that has just started does not know all its pods yet.
	if got, err := r.Has(t.Context(), "default", "absent"); err == nil || !strings.Contains(err.Error(), "default/absent") {
		t.Errorf("a pod that is not listed: %v, %v, want an error that names it", got, err)
	}
	// A pod that was recreated without the resource, and the one before it.
	if got, err := r.Has(t.Context(), "default", "twice"); err == nil || !strings.Contains(err.Error(), "default/twice") {
		t.Errorf("two pods of one name that differ: %v, %v, want an error that names them", got, err)
	}
	k.server.Stop()
	if _, err := r.Has(t.Context(), "default", "own"); err == nil {
		t.Error("no error without a kubelet")
	}
}
