package hub_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"reflect"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"terway.dev/terway/internal/policy/wire"
)

// language is a version of the messages: the frozen first one, or a later one with an extra
// field in each message and extra messages in the streams.
type language struct{ protoreflect.FileDescriptor }

const (
	laterField   = 1000
	laterMessage = 1001
	laterKind    = 99
)

// bodies are the messages of each kind of resource.
var bodies = map[wire.Kind]protoreflect.Name{
	1: "Namespaces", 2: "Addresses", 3: "Ranges", 4: "Table", 5: "Peers", 6: "RuleSet", 7: "Endpoint",
}

func speak(t *testing.T, later bool) language {
	t.Helper()
	data, err := os.ReadFile("../wire/testdata/format-1.binpb")
	if err != nil {
		t.Fatal(err)
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(data, &set); err != nil {
		t.Fatal(err)
	}
	f := set.File[0]
	for _, m := range f.MessageType {
		if !later {
			break
		}
		if len(m.OneofDecl) > 0 {
			m.Field = append(m.Field, &descriptorpb.FieldDescriptorProto{
				Name: proto.String("later_message"), Number: proto.Int32(laterMessage), OneofIndex: proto.Int32(0),
				Label:    descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
				TypeName: proto.String(".terway.policy.v1.Token"), Type: descriptorpb.FieldDescriptorProto_TYPE_MESSAGE.Enum(),
			})
		}
		m.Field = append(m.Field, &descriptorpb.FieldDescriptorProto{
			Name: proto.String("later"), Number: proto.Int32(laterField),
			Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(), Type: descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum(),
		})
	}
	file, err := protodesc.NewFile(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	return language{file}
}

func (l language) message(name protoreflect.Name) *dynamicpb.Message {
	return dynamicpb.NewMessage(l.Messages().ByName(name))
}

// say converts a message to the language, and sets the extra fields.
func (l language) say(m proto.Message) *dynamicpb.Message {
	d := l.message(m.ProtoReflect().Descriptor().Name())
	b, err := proto.Marshal(m)
	if err == nil {
		err = proto.Unmarshal(b, d)
	}
	if err != nil {
		panic(err)
	}
	setLater(d)
	return d
}

func setLater(m protoreflect.Message) {
	if f := m.Descriptor().Fields().ByNumber(laterField); f != nil {
		m.Set(f, protoreflect.ValueOfString("said later"))
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				setLater(v.List().Get(i).Message())
			}
		default:
			setLater(v.Message())
		}
		return true
	})
}

// followAs opens a stream to a hub in a language.
func followAs(ctx context.Context, conn *grpc.ClientConn) (grpc.ClientStream, error) {
	return conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, wire.Hub_Follow_FullMethodName)
}

func connect(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(overTLS()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// A node with the first version of the messages, and without today's code, connects to a hub.
func TestAnOldNode(t *testing.T) {
	t.Parallel()
	l := speak(t, false)
	h := serve(t, newHub("a"))
	c := newCluster(t, 1)
	if err := h.Apply(c.all()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer token of node1"))
	defer cancel()
	s, err := followAs(ctx, connect(t, h.addr))
	if err != nil {
		t.Fatal(err)
	}
	from := func(field protoreflect.Name, set func(*dynamicpb.Message)) {
		t.Helper()
		m := l.message("FromNode")
		f := m.Descriptor().Fields().ByName(field)
		set(m.Mutable(f).Message().Interface().(*dynamicpb.Message))
		if err := s.SendMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	get := func(m protoreflect.Message, field protoreflect.Name) protoreflect.Value {
		return m.Get(m.Descriptor().Fields().ByName(field))
	}
	put := func(m *dynamicpb.Message, field protoreflect.Name, v any) {
		m.Set(m.Descriptor().Fields().ByName(field), protoreflect.ValueOf(v))
	}
	from("hello", func(m *dynamicpb.Message) { put(m, "format", uint32(1)) })
	has := map[wire.Name]struct{}{}
	resources := 0
	for range 30 {
		var digest wire.Digest
		for settled := false; !settled; {
			m := l.message("ToNode")
			if err := s.RecvMsg(m); err != nil {
				t.Fatal(err)
			}
			of := m.WhichOneof(m.Descriptor().Oneofs().Get(0))
			if of == nil {
				continue // a message that this node does not know
			}
			v := m.Get(of).Message()
			switch of.Name() {
			case "update":
				for i := range get(v, "put").List().Len() {
					r := get(v, "put").List().Get(i).Message()
					resource := wire.Resource{Kind: wire.Kind(get(r, "kind").Enum()), Body: get(r, "body").Bytes()}
					name := bodies[resource.Kind]
					if name == "" {
						t.Fatalf("a node of format 1 is sent kind %d", resource.Kind)
					}
					if err := proto.Unmarshal(resource.Body, l.message(name)); err != nil {
						t.Fatal(err)
					}
					resources++
					has[resource.Name()] = struct{}{}
				}
				for i := range get(v, "remove").List().Len() {
					delete(has, wire.Name(get(v, "remove").List().Get(i).Bytes()))
				}
			case "settled":
				for n := range has {
					digest.Add(n)
				}
				if got := get(v, "digest").Bytes(); string(got) != string(digest[:]) {
					t.Fatalf("the digest is %x: want %x", got, digest)
				}
				revision := get(v, "revision").Uint()
				from("ack", func(m *dynamicpb.Message) { put(m, "revision", revision) })
				settled = true
			}
		}
		for was := c.ForNode("node1"); reflect.DeepEqual(was, c.ForNode("node1")); {
			c.change(t, h.Apply)
		}
	}
	if resources < 30 {
		t.Errorf("%d resources: want more", resources)
	}
}

// A later is a proxy between a node and a hub that makes each look like a later version to the
// other: each message has an extra field, and there are extra messages and an extra kind of
// resource.
type later struct {
	language
	conn *grpc.ClientConn
	// spoils, if not nil, returns what to break in a message to the node.
	spoils func() trouble

	mu sync.Mutex
	// toHub maps the names that nodes get to the hub's names, toNode the other way round.
	toHub, toNode map[wire.Name]wire.Name
}

// What to break in a message.
type trouble int

const (
	nothing trouble = iota
	ends            // the stream ends before it
	wrong           // it has another digest
)

// A resource of a kind that no node knows.
var unknown = &wire.Resource{Kind: laterKind, Body: []byte("of a later kind")}

func (p *later) follow(_ any, in grpc.ServerStream) error {
	md, _ := metadata.FromIncomingContext(in.Context())
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(in.Context(), metadata.Pairs("authorization", md.Get("authorization")[0])))
	defer cancel()
	out, err := followAs(ctx, p.conn)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	has := map[wire.Name]struct{}{} // what the node has, by the names it uses
	go func() {
		for {
			m := &wire.FromNode{}
			if in.RecvMsg(m) != nil {
				_ = out.CloseSend()
				return
			}
			if h := m.GetHello(); h != nil {
				h.Format++
				var have [][]byte
				mu.Lock()
				p.mu.Lock()
				for _, b := range h.Have {
					has[wire.Name(b)] = struct{}{}
					if n, ok := p.toHub[wire.Name(b)]; ok {
						have = append(have, n[:])
					}
				}
				p.mu.Unlock()
				mu.Unlock()
				h.Have = have
			}
			if out.SendMsg(p.say(m)) != nil || out.SendMsg(p.laterMessage("FromNode")) != nil {
				return
			}
		}
	}()
	for {
		m := &wire.ToNode{}
		if err := out.RecvMsg(m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		mu.Lock()
		if u := m.GetUpdate(); u != nil {
			for i, r := range u.Put {
				u.Put[i] = p.translate(r)
				has[u.Put[i].Name()] = struct{}{}
			}
			p.mu.Lock()
			for i, b := range u.Remove {
				n := p.toNode[wire.Name(b)]
				u.Remove[i] = n[:]
				delete(has, n)
			}
			p.mu.Unlock()
			u.Put = append(u.Put, unknown)
			has[unknown.Name()] = struct{}{}
		}
		if s := m.GetSettled(); s != nil {
			var digest wire.Digest
			for n := range has {
				digest.Add(n)
			}
			s.Digest = digest[:]
		}
		mu.Unlock()
		if p.spoils != nil {
			switch p.spoils() {
			case ends:
				return errors.New("it was cut")
			case wrong:
				if s := m.GetSettled(); s != nil {
					s.Digest[0] ^= 1
				}
			}
		}
		if err := in.SendMsg(p.laterMessage("ToNode")); err != nil {
			return err
		}
		if err := in.SendMsg(p.say(m)); err != nil {
			return err
		}
	}
}

// translate converts a resource to what a later hub would send.
func (p *later) translate(r *wire.Resource) *wire.Resource {
	body := p.message(bodies[r.Kind])
	if err := proto.Unmarshal(r.Body, body); err != nil {
		panic(err)
	}
	setLater(body)
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(body)
	if err != nil {
		panic(err)
	}
	out := &wire.Resource{Kind: r.Kind, Body: b}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.toHub[out.Name()], p.toNode[r.Name()] = r.Name(), out.Name()
	return out
}

func (p *later) laterMessage(name protoreflect.Name) *dynamicpb.Message {
	m := p.message(name)
	m.Set(m.Descriptor().Fields().ByNumber(laterMessage), protoreflect.ValueOfMessage(p.message("Token")))
	return m
}

// between serves a proxy between nodes and a hub.
func between(t *testing.T, h *replica, spoils func() trouble) (addr string) {
	t.Helper()
	p := &later{
		language: speak(t, true), conn: connect(t, h.addr), spoils: spoils,
		toHub: map[wire.Name]wire.Name{}, toNode: map[wire.Name]wire.Name{},
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{GetCertificate: serving})), grpc.UnknownServiceHandler(p.follow))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	return l.Addr().String()
}

// Streams end between any two messages, or digests are wrong. Updates without a Settled are not
// lost, and have no effect before the next Settled.
func TestStreamsThatEndInTheMiddle(t *testing.T) {
	for what, troubles := range map[string][]trouble{"ends": {ends, nothing, nothing, nothing, nothing}, "digests": {wrong, nothing}} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			h := serve(t, newHub("a"))
			c := newCluster(t, 6)
			if err := h.Apply(c.all()); err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex
			chance, good := rand.New(rand.NewPCG(1, 10)), false
			addr := between(t, h, func() trouble {
				mu.Lock()
				defer mu.Unlock()
				if good {
					return nothing
				}
				return troubles[chance.IntN(len(troubles))]
			})
			a := start(t, "node1", stateFile(t), &consumer{}, func() []string { return []string{addr} })
			for i := range 20 {
				c.change(t, h.Apply)
				connects := a.Stats().Connects
				eventually(t, "the node's part, or another stream", func() error {
					if err := a.consumer.has(c.ForNode("node1")); err != nil && a.Stats().Connects < connects+uint64(i%2)+1 {
						return err
					}
					return nil
				})
			}
			mu.Lock()
			good = true
			mu.Unlock()
			eventually(t, "the node's part in the end", func() error { return a.consumer.has(c.ForNode("node1")) })
			s, nacked := a.Stats(), h.Stats().Nacked
			t.Logf("%d streams, %d revisions, %d of them refused", s.Connects, h.Stats().Sent, nacked)
			if s.Connects < 4 || (nacked > 0) != (what == "digests") {
				t.Errorf("%d streams, %d revisions refused: want some, and refused ones if and only if digests are wrong", s.Connects, nacked)
			}
		})
	}
}

// A node connects to a hub of a later version, and a hub gets a node of a later version: each
// uses what it knows. The node keeps unknown resources on disk, and resumes with them.
func TestLaterVersions(t *testing.T) {
	t.Parallel()
	h := serve(t, newHub("a"))
	c := newCluster(t, 2)
	if err := h.Apply(c.all()); err != nil {
		t.Fatal(err)
	}
	addr := between(t, h, nil)
	path := stateFile(t)
	hubs := func() []string { return []string{addr} }
	a := start(t, "node1", path, &consumer{}, hubs)
	for range 30 {
		eventually(t, "the node's part", func() error { return a.consumer.has(c.ForNode("node1")) })
		c.change(t, h.Apply)
	}
	eventually(t, "the node's part", func() error { return a.consumer.has(c.ForNode("node1")) })
	a.stop()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{string(unknown.Body), "said later"} {
		if !bytes.Contains(data, []byte(what)) {
			t.Errorf("%q is not on disk", what)
		}
	}
	a = start(t, "node1", path, &consumer{}, hubs)
	eventually(t, "the node connects again", func() error {
		if !a.Status().Following {
			return errors.New(a.Status().Error)
		}
		return nil
	})
	if s := a.Stats(); s.Put != 0 || s.Removed != 0 {
		t.Errorf("%d resources came and %d went: want none", s.Put, s.Removed)
	}
	if n := h.Stats().Nacked; n != 0 {
		t.Errorf("%d revisions were refused", n)
	}
}
