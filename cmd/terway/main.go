// Command terway is the CNI plugin. The container runtime executes it for each
// pod; it relays the call to terwayd, the node's agent, and prints the answer.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"terway.dev/terway/internal/cnicall"
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
		Add:    relay("ADD", types.ErrTryAgainLater),
		Del:    relay("DEL", types.ErrTryAgainLater),
		Check:  relay("CHECK", types.ErrTryAgainLater),
		Status: relay("STATUS", types.ErrPluginNotAvailable),
		GC:     relay("GC", types.ErrTryAgainLater),
	}, version.PluginSupports("0.3.1", "0.4.0", "1.0.0", "1.1.0"), "terway: pods with VPC addresses")
}

// relay asks the agent to do a CNI verb. noAnswer is the CNI error
// code when none came. The runtime may try every verb again: ADD and DEL are
// idempotent, and a DEL that the agent has not confirmed must be repeated or the
// address would be lost; so DEL is an error, too.
func relay(verb string, noAnswer uint) func(*skel.CmdArgs) error {
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
		reply, err := ask(ctx, conf.Socket, cnicall.Request{
			Verb:        verb,
			ContainerID: args.ContainerID,
			NetNS:       args.Netns,
			IfName:      args.IfName,
			Args:        args.Args,
			Path:        args.Path,
			Config:      args.StdinData,
		})
		switch {
		case errors.As(err, new(*cnicall.BrokenError)):
			return types.NewError(noAnswer, "terwayd, the node's network agent, does not answer (is its pod running on this node?)", err.Error())
		case err != nil:
			return types.NewError(noAnswer, "terwayd, the node's network agent, gave no answer", err.Error())
		case reply.Error != nil:
			return types.NewError(reply.Error.Code, reply.Error.Msg, reply.Error.Details)
		}
		if len(reply.Result) > 0 {
			if _, err := os.Stdout.Write(reply.Result); err != nil {
				return types.NewError(types.ErrIOFailure, "write the result", err.Error())
			}
		}
		return nil
	}
}

// ask calls the agent; while that is being restarted it tries again. Every verb is
// idempotent, so a call whose answer got lost may be made once more.
func ask(ctx context.Context, socket string, r cnicall.Request) (cnicall.Reply, error) {
	var broken time.Time
	for {
		reply, err := cnicall.Do(ctx, socket, r)
		if !errors.As(err, new(*cnicall.BrokenError)) {
			return reply, err
		}
		if broken.IsZero() {
			broken = time.Now()
		}
		if time.Since(broken) > restart || ctx.Err() != nil {
			return reply, err
		}
		time.Sleep(redial)
	}
}
