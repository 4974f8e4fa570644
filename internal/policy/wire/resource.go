package wire

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"google.golang.org/protobuf/proto"
)

// Format is the format of the resources that this version writes and reads.
const Format = 1

// MaxMessage is the maximum size of a message, in bytes, for hub and node. A rule set of the
// compiler's budget can be one table of some MB.
const MaxMessage = 16 << 20

// MaxUpdate is the approximate size of the resources in one Update, in bytes.
const MaxUpdate = 128 << 10

// A Name is the hash of a resource's content.
type Name [16]byte

func (n Name) String() string { return hex.EncodeToString(n[:]) }

// Name returns the resource's name.
func (r *Resource) Name() Name {
	h := sha256.New()
	h.Write(binary.AppendUvarint(nil, uint64(uint32(r.Kind))))
	h.Write(r.Body)
	return Name(h.Sum(nil)[:len(Name{})])
}

// A Named is a resource and its name.
type Named struct {
	Name Name
	*Resource
}

func named(k Kind, body proto.Message) Named {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(body)
	if err != nil {
		// Marshalling fails only for strings that are not UTF-8, which the API server rejects.
		panic(fmt.Sprintf("policy: marshal %T: %v", body, err))
	}
	r := &Resource{Kind: k, Body: b}
	return Named{r.Name(), r}
}

// Names decodes a list of names.
func Names(list [][]byte) ([]Name, error) {
	out := make([]Name, len(list))
	for i, b := range list {
		if len(b) != len(Name{}) {
			return nil, fmt.Errorf("name %x of a resource has %d bytes: want %d", b, len(b), len(Name{}))
		}
		out[i] = Name(b)
	}
	return out, nil
}

// A Digest of a set of resources is the exclusive or of their names.
type Digest [16]byte

// Add adds a name, or removes it if it was added before.
func (d *Digest) Add(n Name) {
	for i := range d {
		d[i] ^= n[i]
	}
}
