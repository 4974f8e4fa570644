package nodenetwork

import (
	"crypto/sha256"
	"encoding/hex"
)

// Maximum lengths of an ENI's texts (ECS API, CreateNetworkInterface: NetworkInterfaceName,
// Description, Tag.N.Value). A Node's name may have 253 characters.
const (
	maxName        = 128
	maxDescription = 256
	maxTagValue    = 128
)

// nodeTag returns the value of the tag TagNode for a node.
func nodeTag(node string) string { return fit(node, maxTagValue) }

// fit returns a text of at most so many characters: a longer one is cut and ends in a hash of the
// whole, which distinguishes texts with the same beginning. Texts are ASCII, as names of Nodes are.
func fit(text string, most int) string {
	if len(text) <= most {
		return text
	}
	sum := sha256.Sum256([]byte(text))
	end := "-" + hex.EncodeToString(sum[:8])
	return text[:most-len(end)] + end
}
