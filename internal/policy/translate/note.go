package translate

import (
	"fmt"
	"strings"

	"terway.dev/terway/internal/policy"
)

// Severity says how much of the object is not enforced.
type Severity uint8

// The severities.
const (
	// Notice: all of it is enforced; the Note is information.
	Notice Severity = iota
	// Partly: the part that the Note names is not enforced as written.
	Partly
	// Refused: the object is not applied.
	Refused
)

func (s Severity) String() string {
	return [...]string{"notice", "not enforced", "refused"}[s]
}

// A Note tells the author of an object where it is not enforced as written.
type Note struct {
	Ref policy.Ref
	// Field is the path of the field, as in "spec.ingress[2].source.nets[0]".
	Field string
	// Value is the field's value, as text.
	Value string
	// Why says what is wrong, or what happens instead; if the object is refused, what would be
	// right.
	Why      string
	Severity Severity
}

func (n Note) String() string {
	value := n.Value
	if len(value) > 80 {
		value = value[:80] + "…"
	}
	return fmt.Sprintf("%s: %s %q: %s (%s)", n.Ref, n.Field, value, n.Why, n.Severity)
}

// HasStatus reports whether objects of the Note's kind have status conditions for it. For
// others there are events.
func (n Note) HasStatus() bool {
	switch n.Ref.Kind {
	case KindNetworkPolicy, KindHostEndpoint, KindNetworkSet, KindGlobalNetworkSet, KindPod:
		return false
	}
	return true
}

// The kinds of Refs. If two APIs have the same kind, Calico's includes its group.
const (
	KindNetworkPolicy        = "NetworkPolicy"
	KindClusterNetworkPolicy = "ClusterNetworkPolicy"
	KindCalicoPolicy         = "NetworkPolicy.projectcalico.org"
	KindGlobalNetworkPolicy  = "GlobalNetworkPolicy"
	KindTier                 = "Tier"
	KindHostEndpoint         = "HostEndpoint"
	KindNetworkSet           = "NetworkSet"
	KindGlobalNetworkSet     = "GlobalNetworkSet"
	KindPod                  = "Pod"
	KindSetting              = "Setting"
)

// report collects the Notes of one object.
type report struct {
	ref   policy.Ref
	notes []Note
}

func (r *report) note(s Severity, field string, value any, why string) {
	r.notes = append(r.notes, Note{r.ref, field, fmt.Sprint(value), why, s})
}

// refuse adds a Note for an object that its API would reject.
func (r *report) refuse(field string, value any, want string) {
	r.note(Refused, field, value, "want "+strings.TrimPrefix(want, "want "))
}

func (r *report) refused() bool {
	for _, n := range r.notes {
		if n.Severity == Refused {
			return true
		}
	}
	return false
}
