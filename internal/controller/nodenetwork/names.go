package nodenetwork

import (
	"crypto/sha256"
	"encoding/hex"
)

// How long texts of an ENI may be (ECS API, CreateNetworkInterface: NetworkInterfaceName,
// Description, Tag.N.Value). A Node's name may have 253 characters.
const (
	maxName        = 128
	maxDescription = 256
	maxTagValue    = 128
)

// nodeTag is how the tag TagNode names a node.
func nodeTag(node string) string { return fit(node, maxTagValue) }

// fit is a text of at most so many characters: one that is too long ends in a hash of the whole,
// which keeps it apart from others that begin alike. Texts are ASCII, as names of Nodes are.
func fit(text string, most int) string {
	if len(text) <= most {
		return text
	}
	sum := sha256.Sum256([]byte(text))
	end := "-" + hex.EncodeToString(sum[:8])
	return text[:most-len(end)] + end
}
