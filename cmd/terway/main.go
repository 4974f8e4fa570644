// Command terway is the CNI plugin. The container runtime executes it for each
// pod; it relays the call to terwayd, the node's agent, and prints the answer.
//
// It is executed for every pod, so it is as small as possible: the running agent validates the call
// (package request).
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"terway.dev/terway/internal/cnicall"
	"terway.dev/terway/internal/version"
)

const (
	defaultSocket = "/run/terway/terway.sock"
	// timeout is longer than the agent waits for an address and shorter than the kubelet waits for
	// the runtime (2 min).
	timeout = 110 * time.Second
	// restart is how long an agent may not answer without an error. A STATUS that fails makes the
	// node NotReady, and its pods are removed from their Services.
	restart = 5 * time.Second
	// redial is the pause between attempts to reach an agent that is restarting.
	redial = 50 * time.Millisecond
)

func main() {
	verb := os.Getenv("CNI_COMMAND")
	if verb == "" {
		os.Exit(speak(os.Args[1:], os.Stdout, os.Stderr))
	}
	out, err := run(verb, os.Stdin)
	if err != nil {
		out, _ = json.Marshal(struct {
			CNIVersion string `json:"cniVersion"`
			*cnicall.Error
		}{newest(), err}) // strings and a number: encoding cannot fail
	}
	if _, bad := os.Stdout.Write(out); err != nil || bad != nil {
		if bad != nil {
			fmt.Fprintln(os.Stderr, "terway: write the result:", bad)
		}
		os.Exit(1)
	}
}

// speak answers a person, who calls the program without a verb, and returns the exit status.
func speak(args []string, out, errs io.Writer) int {
	switch strings.Join(args, " ") {
	case "--version", "version", "version -o text":
		fmt.Fprintf(out, "terway %s\n", version.Get())
	case "version -o json", "version -o=json", "version --output json", "version --output=json":
		_ = json.NewEncoder(out).Encode(version.Get()) // to a person
	case "", "-h", "--help":
		fmt.Fprintf(errs, "terway: pods with VPC addresses\nA CNI plugin, which container runtimes execute. Versions of CNI: %s\nBesides: terway --version; terway version -o json\n", strings.Join(cnicall.Versions, ", "))
	default:
		fmt.Fprintf(errs, "terway: unknown argument %q: want --version or version -o json; CNI_COMMAND says what a container runtime wants\n", args)
		return 2
	}
	return 0
}

func newest() string { return cnicall.Versions[len(cnicall.Versions)-1] }

// run executes a CNI verb and returns what goes to standard output.
func run(verb string, stdin io.Reader) ([]byte, *cnicall.Error) {
	config, err := io.ReadAll(stdin)
	if err != nil {
		return nil, &cnicall.Error{Code: cnicall.CodeIOFailure, Msg: "read the network configuration from standard input", Details: err.Error()}
	}
	if verb == "VERSION" {
		out, err := json.Marshal(map[string]any{"cniVersion": newest(), "supportedVersions": cnicall.Versions})
		if err != nil {
			return nil, &cnicall.Error{Code: cnicall.CodeIOFailure, Msg: err.Error()}
		}
		return out, nil
	}
	var conf struct {
		Socket string `json:"socket"`
	}
	if err := json.Unmarshal(config, &conf); err != nil {
		return nil, &cnicall.Error{Code: cnicall.CodeDecodingFailure, Msg: "the network configuration is not valid JSON", Details: err.Error()}
	}
	if conf.Socket == "" {
		conf.Socket = defaultSocket
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	reply, err := ask(ctx, conf.Socket, cnicall.Request{
		Verb:        verb,
		ContainerID: os.Getenv("CNI_CONTAINERID"),
		NetNS:       os.Getenv("CNI_NETNS"),
		IfName:      os.Getenv("CNI_IFNAME"),
		Args:        os.Getenv("CNI_ARGS"),
		Path:        os.Getenv("CNI_PATH"),
		Config:      config,
	})
	switch {
	case errors.As(err, new(*cnicall.BrokenError)):
		return nil, &cnicall.Error{Code: noAnswer(verb), Msg: "terwayd, the node's network agent, does not answer (is its pod running on this node?)", Details: err.Error()}
	case err != nil:
		return nil, &cnicall.Error{Code: noAnswer(verb), Msg: "terwayd, the node's network agent, gave no answer", Details: err.Error()}
	}
	return reply.Result, reply.Error
}

// noAnswer is the CNI error code when there was no answer. The runtime may repeat every verb: ADD
// and DEL are idempotent. A DEL that the agent has not confirmed must be repeated, or the address
// would be lost, so DEL is an error too.
func noAnswer(verb string) uint {
	if verb == "STATUS" {
		return cnicall.CodeNotAvailable
	}
	return cnicall.CodeTryAgainLater
}

// ask calls the agent, and tries again while it is being restarted. Every verb is idempotent, so a
// call whose answer was lost may be repeated.
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
