package wire

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"google.golang.org/protobuf/proto"
)

// Format is that of the resources which this version makes and reads.
const Format = 1

// MaxMessage is the size of the greatest message in bytes that hub and node take: a rule
// set at the compiler's budget may be one table of some MB.
const MaxMessage = 16 << 20

// MaxUpdate is about how many bytes of resources go into one Update.
const MaxUpdate = 128 << 10

// A Name names a resource by its content.
type Name [16]byte

func (n Name) String() string { return hex.EncodeToString(n[:]) }

// Name is the resource's name.
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
		// The API server takes no strings that are not UTF-8, which is what this would be.
		panic(fmt.Sprintf("policy: marshal %T: %v", body, err))
	}
	r := &Resource{Kind: k, Body: b}
	return Named{r.Name(), r}
}

// Names reads a list of names.
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

// A Digest is the exclusive or of names.
type Digest [16]byte

// Add puts a name in, or takes it out.
func (d *Digest) Add(n Name) {
	for i := range d {
		d[i] ^= n[i]
	}
}
