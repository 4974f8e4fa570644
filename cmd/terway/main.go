// Command terway is the CNI plugin. The container runtime executes it for each
// pod; it relays the call to terwayd, the node's agent, and prints the answer.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	cniv1 "terway.dev/terway/api/cni/v1"
)

const (
	defaultSocket = "/run/terway/terway.sock"
	// timeout is longer than the agent waits for an address and shorter than the
	// kubelet waits for the runtime (2 min).
	timeout = 110 * time.Second
	// restart is how long an agent may be away without anybody noticing. A STATUS
	// that fails makes the node NotReady, and its pods leave their Services.
	restart = 5 * time.Second
	// redial is the pause between attempts to reach an agent that restarts.
	redial = 50 * time.Millisecond
)

func main() {
	skel.PluginMainFuncs(skel.CNIFuncs{
		Add:    relay(cniv1.CNIClient.Add, types.ErrTryAgainLater),
		Del:    relay(cniv1.CNIClient.Del, types.ErrTryAgainLater),
		Check:  relay(cniv1.CNIClient.Check, types.ErrTryAgainLater),
		Status: relay(cniv1.CNIClient.Status, types.ErrPluginNotAvailable),
		GC:     relay(cniv1.CNIClient.GC, types.ErrTryAgainLater),
	}, version.PluginSupports("0.3.1", "0.4.0", "1.0.0", "1.1.0"), "terway: pods with VPC addresses")
}

type method func(cniv1.CNIClient, context.Context, *cniv1.Request, ...grpc.CallOption) (*cniv1.Reply, error)

// relay makes a CNI verb of one of the agent's methods. noAnswer is the CNI error
// code when none came. The runtime may try every verb again: ADD and DEL are
// idempotent, and a DEL that the agent has not confirmed must be repeated or the
// address would be lost; so DEL is an error, too.
func relay(call method, noAnswer uint) func(*skel.CmdArgs) error {
	return func(args *skel.CmdArgs) error {
		var conf struct {
			Socket string `json:"socket"`
		}
		if err := json.Unmarshal(args.StdinData, &conf); err != nil {
			return types.NewError(types.ErrDecodingFailure, "network configuration is not JSON", err.Error())
		}
		if conf.Socket == "" {
			conf.Socket = defaultSocket
		}
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		conn, err := grpc.NewClient("passthrough:///"+conf.Socket,
			grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(dial),
			grpc.WithAuthority("terwayd"), grpc.WithDisableServiceConfig())
		if err != nil {
			return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("socket %q of the network configuration: want the agent's unix socket", conf.Socket), err.Error())
		}
		defer conn.Close()
		reply, err := call(cniv1.NewCNIClient(conn), ctx, &cniv1.Request{
			ContainerId: args.ContainerID,
			Netns:       args.Netns,
			IfName:      args.IfName,
			Args:        args.Args,
			Path:        args.Path,
			Config:      args.StdinData,
		})
		switch {
		case status.Code(err) == codes.Unavailable:
			return types.NewError(noAnswer, "terwayd, the node's network agent, does not answer (is its pod running on this node?)", err.Error())
		case err != nil:
			return types.NewError(noAnswer, "terwayd, the node's network agent, gave no answer", err.Error())
		case reply.GetError() != nil:
			e := reply.GetError()
			return types.NewError(uint(e.GetCode()), e.GetMsg(), e.GetDetails())
		}
		if len(reply.GetResult()) > 0 {
			if _, err := os.Stdout.Write(reply.GetResult()); err != nil {
				return types.NewError(types.ErrIOFailure, "write the result", err.Error())
			}
		}
		return nil
	}
}

// dial opens the agent's socket; while the agent is being restarted it tries again.
func dial(ctx context.Context, socket string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, restart)
	defer cancel()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		if err == nil {
			return conn, nil
		}
		select {
		case <-time.After(redial):
		case <-ctx.Done():
			return nil, fmt.Errorf("for %v: %w", restart, err)
		}
	}
}
