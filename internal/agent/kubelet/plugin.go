// Package kubelet connects the agent to the node's kubelet: the device plugin API advertises how
// many pods can have an exclusive ENI (the extended resource aliyun/eni), the pod resources API
// lists which pods were given one.
//
// It owns one socket in the kubelet's folder of device plugins. It makes no decisions: the
// controller says how many ENIs there are.
package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const (
	// socketName is the plugin's socket in the kubelet's folder.
	socketName = "terway-eni.sock"
	// kubeletName is the kubelet's socket (device plugin API: KubeletSocket).
	kubeletName = "kubelet.sock"
	// lookEvery is how often the plugin checks whether the kubelet has restarted. A kubelet that
	// starts removes the sockets of all plugins, and waits for them to register again.
	lookEvery = time.Second
	// callTimeout bounds a call to the kubelet.
	callTimeout = 10 * time.Second
)

// Plugin advertises a resource with a number of equal devices. A device stands for the right to one
// ENI: the ENI is chosen when the pod is wired.
type Plugin struct {
	// Dir is the kubelet's folder of device plugins, /var/lib/kubelet/device-plugins.
	Dir      string
	Resource string
	Log      *slog.Logger

	mu      sync.Mutex
	count   int
	changed chan struct{} // closed and replaced when count changes

	api.UnimplementedDevicePluginServer
}

// Set sets how many devices there are. The plugin does not register before the first call, nor
// while the number has always been 0.
func (p *Plugin) Set(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	if p.count == n {
		return
	}
	p.count = n
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *Plugin) state() (int, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	return p.count, p.changed
}

// Run serves until ctx is done. It retries when the kubelet is not there or rejects the plugin.
func (p *Plugin) Run(ctx context.Context) {
	for {
		n, changed := p.state()
		if n > 0 {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
	said := ""
	for ctx.Err() == nil {
		err := p.serve(ctx)
		if err != nil && err.Error() != said {
			said = err.Error()
			p.Log.Warn("the kubelet does not offer "+p.Resource+" yet", "error", err)
		}
		select {
		case <-time.After(lookEvery):
		case <-ctx.Done():
		}
	}
}

// serve listens, registers, and returns when the kubelet has removed the socket.
func (p *Plugin) serve(ctx context.Context) error {
	path := filepath.Join(p.Dir, socketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the device plugin's old socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("listen on the device plugin's socket: %w", err)
	}
	s := grpc.NewServer()
	api.RegisterDevicePluginServer(s, p)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	defer s.Stop()
	if err := p.register(ctx); err != nil {
		return err
	}
	p.Log.Info("the kubelet offers " + p.Resource)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-served:
			return fmt.Errorf("serve the device plugin: %w", err)
		case <-tick.C:
			if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
				return nil
			}
		}
	}
}

func (p *Plugin) register(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := dial(filepath.Join(p.Dir, kubeletName))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = api.NewRegistrationClient(conn).Register(ctx, &api.RegisterRequest{
		Version: api.Version, Endpoint: socketName, ResourceName: p.Resource,
	})
	if err != nil {
		return fmt.Errorf("register resource %s with the kubelet: %w", p.Resource, err)
	}
	return nil
}

func dial(socket string) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("socket %s of the kubelet: %w", socket, err)
	}
	return conn, nil
}

// GetDevicePluginOptions implements the device plugin API: no options.
func (p *Plugin) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{}, nil
}

// ListAndWatch implements the device plugin API.
func (p *Plugin) ListAndWatch(_ *api.Empty, stream grpc.ServerStreamingServer[api.ListAndWatchResponse]) error {
	for {
		n, changed := p.state()
		list := &api.ListAndWatchResponse{}
		for i := range n {
			list.Devices = append(list.Devices, &api.Device{ID: fmt.Sprintf("eni-%d", i), Health: api.Healthy})
		}
		if err := stream.Send(list); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		}
	}
}

// Allocate implements the device plugin API. It adds nothing to the container: the ENI comes with
// the pod's network.
func (p *Plugin) Allocate(_ context.Context, r *api.AllocateRequest) (*api.AllocateResponse, error) {
	out := &api.AllocateResponse{}
	for range r.ContainerRequests {
		out.ContainerResponses = append(out.ContainerResponses, &api.ContainerAllocateResponse{})
	}
	return out, nil
}
