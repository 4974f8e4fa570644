// Command terway is the CNI plugin. The container runtime executes it for each
// pod; it relays the call to terwayd, the node's agent, and prints the answer.
package main

import (
	"context"
	"encoding/json"
	"fmt"
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
)

func main() {
	skel.PluginMainFuncs(skel.CNIFuncs{
		Add:    relay(cniv1.CNIClient.Add),
		Del:    relay(cniv1.CNIClient.Del),
		Check:  relay(cniv1.CNIClient.Check),
		Status: relay(cniv1.CNIClient.Status),
		GC:     relay(cniv1.CNIClient.GC),
	}, version.PluginSupports("0.3.1", "0.4.0", "1.0.0", "1.1.0"), "terway: pods with VPC addresses")
}

type method func(cniv1.CNIClient, context.Context, *cniv1.Request, ...grpc.CallOption) (*cniv1.Reply, error)

// relay makes a CNI verb of one of the agent's methods.
func relay(call method) func(*skel.CmdArgs) error {
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
		conn, err := grpc.NewClient("unix://"+conf.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("socket %q is not a path", conf.Socket), err.Error())
		}
		defer conn.Close()
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		reply, err := call(cniv1.NewCNIClient(conn), ctx, &cniv1.Request{
			ContainerId: args.ContainerID,
			Netns:       args.Netns,
			IfName:      args.IfName,
			Args:        args.Args,
			Path:        args.Path,
			Config:      args.StdinData,
		})
		if err != nil {
			return unreachable(conf.Socket, err)
		}
		if e := reply.GetError(); e != nil {
			return types.NewError(uint(e.GetCode()), e.GetMsg(), e.GetDetails())
		}
		if len(reply.GetResult()) > 0 {
			fmt.Println(string(reply.GetResult()))
		}
		return nil
	}
}

// unreachable says that no answer came. The runtime may try every verb again:
// ADD and DEL are idempotent, and a DEL that the agent has not confirmed must be
// repeated or the address would be lost.
func unreachable(socket string, err error) error {
	if status.Code(err) == codes.Unavailable {
		return types.NewError(types.ErrTryAgainLater,
			"terwayd, the node's network agent, does not answer (is its pod running on this node?)", "socket "+socket+": "+err.Error())
	}
	return types.NewError(types.ErrTryAgainLater, "terwayd, the node's network agent, gave no answer", err.Error())
}
