package node

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"

	"terway.dev/terway/internal/policy/wire"
)

func TestStateOnDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	if s, err := load(path); s != nil || err != nil {
		t.Errorf("without a file: %v, %v", s, err)
	}
	want := &wire.State{Revision: 7, Hub: "a", Settled: 9, Resources: []*wire.Resource{{Kind: wire.Kind_KIND_NAMESPACES, Body: []byte{10, 1, 'n'}}}}
	for range 2 { // the second replaces the first
		if err := save(path, want); err != nil {
			t.Fatal(err)
		}
		if got, err := load(path); err != nil || !proto.Equal(got, want) {
			t.Errorf("%v, %v: want %v", got, err, want)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v: want a file that only root can read", info.Mode(), err)
	}
}

// Any file gives a state or an error.
func FuzzState(f *testing.F) {
	f.Add([]byte{}, false)
	f.Add([]byte(magic), false)
	f.Add([]byte{8, 7, 34, 4, 8, 1, 18, 0}, true)
	f.Fuzz(func(t *testing.T, data []byte, whole bool) {
		if whole { // with a correct checksum
			sum := sha256.Sum256(data)
			data = append(append([]byte(magic), sum[:]...), data...)
		}
		s, err := parse(data)
		if (s == nil) == (err == nil) {
			t.Errorf("%v, %v", s, err)
		}
		if err == nil {
			names(s.Resources)
		}
	})
}
