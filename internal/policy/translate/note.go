package translate

import (
	"fmt"
	"strings"

	"terway.dev/terway/internal/policy"
)

// Severity is what a Note's object loses.
type Severity uint8

// The severities.
const (
	// Notice: it is enforced; there is something to know.
	Notice Severity = iota
	// Partly: what the Note names is not enforced as it is written.
	Partly
	// Refused: the object is not applied.
	Refused
)

func (s Severity) String() string {
	return [...]string{"notice", "not enforced", "refused"}[s]
}

// A Note tells the author of an object what becomes of it otherwise than he wrote.
type Note struct {
	Ref policy.Ref
	// Field is the path of what is meant, as in "spec.ingress[2].source.nets[0]".
	Field string
	// Value is what the field has, as text.
	Value string
	// Why says what is wrong with it, or what happens instead; for what is refused, what
	// would be right.
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

// HasStatus says whether objects of the Note's kind have a status, whose conditions tell it;
// for others there are events.
func (n Note) HasStatus() bool {
	switch n.Ref.Kind {
	case KindNetworkPolicy, KindHostEndpoint, KindNetworkSet, KindGlobalNetworkSet, KindPod:
		return false
	}
	return true
}

// The kinds of Refs. Where two APIs have the same kind, Calico's has its group behind it.
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

// report gathers the Notes of one object.
type report struct {
	ref   policy.Ref
	notes []Note
}

func (r *report) note(s Severity, field string, value any, why string) {
	r.notes = append(r.notes, Note{r.ref, field, fmt.Sprint(value), why, s})
}

// refuse is for what the object's API would not take.
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
