package node

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"google.golang.org/protobuf/proto"

	"terway.dev/terway/internal/atomicfile"
	"terway.dev/terway/internal/policy/wire"
)

// The file is this line, the SHA-256 of the rest, and wire.State. The number is the version of
// this layout; new content of State goes into new fields.
const magic = "terway policy state 1\n"

func save(path string, s *wire.State) error {
	body, err := proto.Marshal(s)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	sum := sha256.Sum256(body)
	return atomicfile.Write(path, bytes.Join([][]byte{[]byte(magic), sum[:], body}, nil), 0o600)
}

// load reads the file. If there is none, it returns nil without error.
func load(path string) (*wire.State, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

func parse(data []byte) (*wire.State, error) {
	rest, ok := bytes.CutPrefix(data, []byte(magic))
	if !ok {
		return nil, fmt.Errorf("it begins with %.24q: want %q", data, magic)
	}
	if len(rest) < sha256.Size {
		return nil, errors.New("it ends in its checksum")
	}
	body := rest[sha256.Size:]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], rest[:sha256.Size]) {
		return nil, errors.New("its checksum is not that of its content")
	}
	s := &wire.State{}
	if err := proto.Unmarshal(body, s); err != nil {
		return nil, err
	}
	return s, nil
}

// names returns the resources by name.
func names(list []*wire.Resource) map[wire.Name]*wire.Resource {
	out := make(map[wire.Name]*wire.Resource, len(list))
	for _, r := range list {
		out[r.Name()] = r
	}
	return out
}
