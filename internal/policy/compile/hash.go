package compile

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"terway.dev/terway/internal/policy"
)

// A Hash names a part by its content: it is the first half of a SHA-256. The zero Hash is no
// name.
type Hash [16]byte

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// digest collects the bytes to hash. Each value is delimited, so that different lists of values
// never give equal bytes.
type digest []byte

func (d *digest) num(n ...int) {
	for _, n := range n {
		*d = binary.AppendVarint(*d, int64(n))
	}
}

func (d *digest) str(s ...string) {
	for _, s := range s {
		*d = append(binary.AppendUvarint(*d, uint64(len(s))), s...)
	}
}

func (d *digest) bool(b bool) {
	if b {
		d.num(1)
	} else {
		d.num(0)
	}
}

func (d *digest) hash(h Hash) { *d = append(*d, h[:]...) }

func (d *digest) rule(r policy.RuleID) {
	d.str(r.Policy.Kind, r.Policy.Namespace, r.Policy.Name)
	d.num(int(r.Direction), r.Number)
}

func (d *digest) sum() Hash {
	sum := sha256.Sum256(*d)
	return Hash(sum[:len(Hash{})])
}
