package wire_test

import (
	"flag"
	"os"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"terway.dev/terway/internal/policy/wire"
)

var update = flag.Bool("update", false, "write testdata/state-1.binpb, for a new format")

// Files in testdata never change once nodes use their format: format-1.binpb has the messages
// (protoc --descriptor_set_out), state-1.binpb a node's file.

func frozen(t *testing.T) protoreflect.FileDescriptor {
	t.Helper()
	data, err := os.ReadFile("testdata/format-1.binpb")
	if err != nil {
		t.Fatal(err)
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(data, &set); err != nil {
		t.Fatal(err)
	}
	file, err := protodesc.NewFile(set.File[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// Messages, fields, kinds and calls of earlier versions still exist, with their numbers and
// types.
func TestMessagesOnlyGrow(t *testing.T) {
	then, now := frozen(t), wire.File_policy_proto
	fields := 0
	for i := range then.Messages().Len() {
		was := then.Messages().Get(i)
		is := now.Messages().ByName(was.Name())
		if is == nil {
			t.Errorf("message %s is gone", was.Name())
			continue
		}
		for k := range was.Fields().Len() {
			f := was.Fields().Get(k)
			g := is.Fields().ByNumber(f.Number())
			fields++
			switch {
			case g == nil || g.Name() != f.Name() || g.Kind() != f.Kind() || g.Cardinality() != f.Cardinality():
				t.Errorf("field %s = %d is %v now", f.FullName(), f.Number(), g)
			case f.Message() != nil && f.Message().FullName() != g.Message().FullName():
				t.Errorf("field %s is a %s now", f.FullName(), g.Message().FullName())
			case (f.ContainingOneof() == nil) != (g.ContainingOneof() == nil):
				t.Errorf("field %s is in a oneof, or not, as it was not before", f.FullName())
			}
		}
	}
	for i := range then.Enums().Len() {
		was := then.Enums().Get(i)
		for k := range was.Values().Len() {
			v := was.Values().Get(k)
			if g := now.Enums().ByName(was.Name()).Values().ByNumber(v.Number()); g == nil || g.Name() != v.Name() {
				t.Errorf("%s = %d is %v now", v.FullName(), v.Number(), g)
			}
		}
	}
	for i := range then.Services().Len() {
		was := then.Services().Get(i)
		for k := range was.Methods().Len() {
			m := was.Methods().Get(k)
			g := now.Services().ByName(was.Name()).Methods().ByName(m.Name())
			if g == nil || g.Input().FullName() != m.Input().FullName() || g.Output().FullName() != m.Output().FullName() ||
				g.IsStreamingClient() != m.IsStreamingClient() || g.IsStreamingServer() != m.IsStreamingServer() {
				t.Errorf("call %s is %v now", m.FullName(), g)
			}
		}
	}
	if fields < 60 {
		t.Errorf("%d fields were compared: want all", fields)
	}
}

// A file of an earlier version can be read.
func TestStateOfAnEarlierVersion(t *testing.T) {
	const path = "testdata/state-1.binpb"
	if *update {
		c, err := random(21)
		if err != nil {
			t.Fatal(err)
		}
		s := &wire.State{Revision: 7, Hub: "terway-controller-x", Settled: 1790000000000}
		for _, r := range wire.Encode(c.ForNode("node1"), wire.EncodeNamespaces([]string{"blue"})) {
			s.Resources = append(s.Resources, r.Resource)
		}
		data, err := proto.Marshal(s)
		if err == nil {
			err = os.WriteFile(path, data, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var s wire.State
	if err := proto.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	part := wire.NewPart()
	resources := map[wire.Name]*wire.Resource{}
	var digest wire.Digest
	for _, r := range s.Resources {
		if resources[r.Name()] == nil {
			digest.Add(r.Name())
		}
		resources[r.Name()] = r
	}
	if _, err := part.Change(resources, nil, digest); err != nil {
		t.Fatal(err)
	}
	n := part.Node()
	got := [...]int{int(s.Revision), len(n.Endpoints), len(n.RuleSets), len(n.Addresses), len(n.Peers), len(n.Tables), len(n.Ranges[0]), len(n.Ranges[1])}
	if want := [...]int{7, 4, 12, 16, 45, 5, 9, 3}; got != want || !part.Open("blue") {
		t.Errorf("revision, endpoints, rule sets, addresses, peers, tables and ranges are %v: want %v", got, want)
	}
}
