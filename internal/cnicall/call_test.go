package cnicall

import (
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	cniv1 "terway.dev/terway/api/cni/v1"
)

// agent is the gRPC library's server with the generated service.
type agent struct {
	cniv1.UnimplementedCNIServer
	add func(context.Context, *cniv1.Request) (*cniv1.Reply, error)
}

func (a *agent) Add(ctx context.Context, in *cniv1.Request) (*cniv1.Reply, error) {
	return a.add(ctx, in)
}

func serve(t *testing.T, add func(context.Context, *cniv1.Request) (*cniv1.Reply, error)) (socket string, s *grpc.Server) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s = grpc.NewServer()
	cniv1.RegisterCNIServer(s, &agent{add: add})
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return socket, s
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// What is sent is what the generated messages have, whatever its size: in one frame, in
// some, in more than the agent's window takes at once; and so is what is answered.
func TestAddBothWays(t *testing.T) {
	socket, _ := serve(t, func(ctx context.Context, in *cniv1.Request) (*cniv1.Reply, error) {
		if _, ok := ctx.Deadline(); !ok {
			t.Error("the agent was not told the deadline")
		}
		return &cniv1.Reply{Result: in.GetConfig(), Error: &cniv1.Error{
			Code: 11, Msg: strings.Join([]string{in.GetContainerId(), in.GetNetns(), in.GetIfName(), in.GetArgs(), in.GetPath()}, " "), Details: "ä",
		}}, nil
	})
	for _, size := range []int{0, 1, 16384, 65535, 300_000, 900_000} {
		in := Request{ContainerID: "id", NetNS: "/run/netns/x", IfName: "eth0", Args: "A=b", Path: "/opt/cni/bin", Config: bytes.Repeat([]byte("c"), size)}
		got, err := Do(within(t, 20*time.Second), socket, "Add", in)
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if len(got.Result) != size || !bytes.Equal(got.Result, in.Config) {
			t.Errorf("%d bytes: %d came back", size, len(got.Result))
		}
		if want := (&Error{11, "id /run/netns/x eth0 A=b /opt/cni/bin", "ä"}); !reflect.DeepEqual(got.Error, want) {
			t.Errorf("%d bytes: error %+v, want %+v", size, got.Error, want)
		}
	}
}

func TestSuccessHasNoError(t *testing.T) {
	socket, _ := serve(t, func(context.Context, *cniv1.Request) (*cniv1.Reply, error) { return &cniv1.Reply{}, nil })
	if got, err := Do(within(t, 20*time.Second), socket, "Add", Request{}); err != nil || got.Error != nil || len(got.Result) != 0 {
		t.Errorf("got %+v, %v, want an empty reply", got, err)
	}
}

func TestRefusals(t *testing.T) {
	socket, s := serve(t, func(context.Context, *cniv1.Request) (*cniv1.Reply, error) {
		return nil, status.Error(codes.ResourceExhausted, "zu viele 100% ü")
	})
	var refused *StatusError
	if _, err := Do(within(t, 20*time.Second), socket, "Add", Request{}); !errors.As(err, &refused) || refused.Code != int(codes.ResourceExhausted) || refused.Message != "zu viele 100% ü" {
		t.Errorf("got %v", err)
	}
	if _, err := Do(within(t, 20*time.Second), socket, "Nonsense", Request{}); !errors.As(err, &refused) || refused.Code != int(codes.Unimplemented) {
		t.Errorf("a method that is not there: %v", err)
	}
	s.Stop()
	var gone *BrokenError
	if _, err := Do(within(t, 20*time.Second), socket, "Add", Request{}); !errors.As(err, &gone) {
		t.Errorf("an agent that is gone: %v", err)
	}
}

// An agent that is killed in the middle of a call, and one that takes too long.
func TestNoAnswer(t *testing.T) {
	at := make(chan struct{}, 2)
	socket, s := serve(t, func(ctx context.Context, _ *cniv1.Request) (*cniv1.Reply, error) {
		at <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	})
	var gone *BrokenError
	var refused *StatusError
	if _, err := Do(within(t, 100*time.Millisecond), socket, "Add", Request{}); !errors.As(err, &gone) && !errors.As(err, &refused) {
		t.Errorf("after the deadline: %v", err)
	}
	<-at
	go func() {
		<-at
		s.Stop()
	}()
	if _, err := Do(within(t, 20*time.Second), socket, "Add", Request{}); !errors.As(err, &gone) {
		t.Errorf("killed: %v", err)
	}
}

// FuzzDecode: whatever the bytes are, decode agrees with the generated messages.
func FuzzDecode(f *testing.F) {
	whole, err := proto.Marshal(&cniv1.Reply{Result: []byte("{}"), Error: &cniv1.Error{Code: 7, Msg: "m", Details: "d"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add([]byte{0x18, 1, 0x25, 0, 0, 0, 0})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := decode(b)
		var want cniv1.Reply
		if proto.Unmarshal(b, &want) != nil || err != nil {
			return // UTF-8, repeated errors and the like: the library is the stricter one
		}
		if !bytes.Equal(got.Result, want.GetResult()) {
			t.Errorf("result %q, want %q", got.Result, want.GetResult())
		}
	})
}
