package provision

import (
	"fmt"
	"strings"
)

// The actions of a Step.
const (
	ActionCreate = "create"
	// ActionAdd adds a secondary range to the VPC, ActionAllow a range to what the security group accepts.
	ActionAdd    = "add"
	ActionAllow  = "allow"
	ActionDelete = "delete"
	// ActionRecord puts a vSwitch into the plan's file, ActionAdopt into the cluster's configuration.
	ActionRecord = "record"
	ActionAdopt  = "adopt"
)

// The kinds of things that a Step is about.
const (
	KindVPC     = "VPC"
	KindVSwitch = "vSwitch"
	KindGroup   = "security group"
)

// A Step is one thing that was done, or would be.
type Step struct {
	Action string `json:"action"`
	Kind   string `json:"kind"`
	// ID is empty for what is not there yet.
	ID   string `json:"id,omitempty"`
	Name string `json:"name,omitempty"`
	CIDR string `json:"cidr,omitempty"`
	Zone string `json:"zone,omitempty"`
	// Role is that of a vSwitch, Type that of a security group.
	Role string `json:"role,omitempty"`
	Type string `json:"type,omitempty"`
}

// String is a line for people: "create vSwitch shop-pod (192.168.32.0/19, cn-hangzhou-i, for pods)".
func (s Step) String() string {
	switch s.Action {
	case ActionAdd:
		return fmt.Sprintf("add the secondary range %s to the VPC", s.CIDR)
	case ActionAllow:
		return fmt.Sprintf("allow everything from %s in the security group", s.CIDR)
	case ActionRecord:
		return "put " + s.What() + " into the plan's file"
	case ActionAdopt:
		return "let the cluster use " + s.What()
	}
	return s.Action + " " + s.What()
}

// What is what the step is about.
func (s Step) What() string {
	var more []string
	for _, text := range []string{s.CIDR, s.Zone, s.Type} {
		if text != "" {
			more = append(more, text)
		}
	}
	if s.Role != "" {
		more = append(more, "for "+s.Role+"s")
	}
	what := s.Kind
	for _, text := range []string{s.ID, s.Name} {
		if text != "" {
			what += " " + text
		}
	}
	if len(more) > 0 {
		what += " (" + strings.Join(more, ", ") + ")"
	}
	return what
}
