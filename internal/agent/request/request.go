// Package request validates CNI calls, once, where they enter the agent: what Parse returns is safe
// to use as a key, a path and a name.
package request

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/utils"
	"k8s.io/apimachinery/pkg/util/validation"

	"terway.dev/terway/internal/cnicall"
)

// Verb is a CNI operation.
type Verb string

const (
	Add    Verb = "ADD"
	Del    Verb = "DEL"
	Check  Verb = "CHECK"
	Status Verb = "STATUS"
	GC     Verb = "GC"
)

var verbs = []Verb{Add, Del, Check, Status, GC}

// since has the first CNI version that knows a verb, for verbs that some of cnicall.Versions lack.
var since = map[Verb]string{Check: "0.4.0", Status: "1.1.0", GC: "1.1.0"}

// Attachment names one interface of one sandbox, as GC lists it.
type Attachment struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
}

// Request is a valid CNI call.
type Request struct {
	Verb        Verb
	ContainerID string
	IfName      string
	NetNS       string // cleaned absolute path; may be empty for DEL, STATUS and GC
	CNIVersion  string
	Network     string // the network's name
	// Namespace, Name and UID are the pod's (CNI_ARGS K8S_POD_…); empty when the caller is not
	// Kubernetes.
	Namespace, Name, UID string
	// Annotations are the pod's, only for ADD; empty when the runtime does not pass them.
	Annotations map[string]string
	// PrevAddresses are the addresses of the previous result; CHECK compares them.
	PrevAddresses []netip.Addr
	// PrevInterfaces are the previous result's interfaces: name → sandbox ("" on the host).
	PrevInterfaces map[string]string
	// Valid are the attachments that GC must keep.
	Valid []Attachment
}

// CapabilityAnnotations is the capability by which container runtimes pass the pod's annotations
// (containerd: annotations.PodAnnotations; CRI-O has the same).
const CapabilityAnnotations = "io.kubernetes.cri.pod-annotations"

type config struct {
	CNIVersion string      `json:"cniVersion"`
	Name       string      `json:"name"`
	Type       string      `json:"type"`
	PrevResult *prevResult `json:"prevResult"`
	// Runtime is raw: only ADD needs it, and it must not make a DEL fail.
	Runtime json.RawMessage `json:"runtimeConfig"`
	// Valid is raw to distinguish null, which libcni writes for no attachments, from a missing
	// list.
	Valid json.RawMessage `json:"cni.dev/valid-attachments"`
}

type prevResult struct {
	IPs []struct {
		Address string `json:"address"`
	} `json:"ips"`
	Interfaces []struct {
		Name    string `json:"name"`
		Sandbox string `json:"sandbox"`
	} `json:"interfaces"`
}

// maxContainerID bounds a key on disk; runtimes use 64 characters.
const maxContainerID = 256

// Parse validates a call. An error names the field, its value and what is valid.
func Parse(in cnicall.Request) (*Request, *types.Error) {
	verb := Verb(in.Verb)
	if !slices.Contains(verbs, verb) {
		return nil, types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("CNI_COMMAND %q: want one of %q", verb, verbs), "")
	}
	var c config
	if err := json.Unmarshal(in.Config, &c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "network configuration is not valid", err.Error())
	}
	if !slices.Contains(cnicall.Versions, c.CNIVersion) {
		return nil, types.NewError(types.ErrIncompatibleCNIVersion,
			fmt.Sprintf("cniVersion %q of the network configuration: want one of %s", c.CNIVersion, strings.Join(cnicall.Versions, ", ")), "")
	}
	if first, ok := since[verb]; ok && slices.Index(cnicall.Versions, c.CNIVersion) < slices.Index(cnicall.Versions, first) {
		return nil, types.NewError(types.ErrIncompatibleCNIVersion,
			fmt.Sprintf("cniVersion %q of the network configuration: %s needs %s or later", c.CNIVersion, verb, first), "")
	}
	if err := utils.ValidateNetworkName(c.Name); err != nil {
		return nil, err
	}
	r := &Request{Verb: verb, CNIVersion: c.CNIVersion, Network: c.Name}
	switch verb {
	case Status:
		return r, nil
	case GC:
		if len(c.Valid) == 0 {
			return nil, types.NewError(types.ErrInvalidNetworkConfig,
				"cni.dev/valid-attachments is missing: GC without the list of valid attachments would free every pod's address", "")
		}
		if err := json.Unmarshal(c.Valid, &r.Valid); err != nil {
			return nil, types.NewError(types.ErrInvalidNetworkConfig,
				"cni.dev/valid-attachments: want a list of {containerID, ifname}", err.Error())
		}
		return r, nil
	}
	if err := utils.ValidateContainerID(in.ContainerID); err != nil {
		return nil, err
	}
	if n := len(in.ContainerID); n > maxContainerID {
		return nil, types.NewError(types.ErrInvalidEnvironmentVariables,
			fmt.Sprintf("CNI_CONTAINERID has %d characters: want at most %d", n, maxContainerID), "")
	}
	if err := utils.ValidateInterfaceName(in.IfName); err != nil {
		return nil, err
	}
	for _, c := range []byte(in.IfName) {
		if c <= ' ' || c >= 0x7f {
			return nil, types.NewError(types.ErrInvalidEnvironmentVariables,
				fmt.Sprintf("CNI_IFNAME %q: want printable ASCII characters only", in.IfName), "")
		}
	}
	r.ContainerID, r.IfName = in.ContainerID, in.IfName
	if n := in.NetNS; n != "" {
		if !filepath.IsAbs(n) || strings.ContainsRune(n, 0) {
			return nil, types.NewError(types.ErrInvalidEnvironmentVariables,
				fmt.Sprintf("CNI_NETNS %q: want the absolute path of a network namespace", n), "")
		}
		r.NetNS = filepath.Clean(n)
	} else if verb != Del {
		return nil, types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_NETNS is empty: want the path of the pod's network namespace", "")
	}
	if verb == Del {
		return r, nil // a DEL needs nothing else, and nothing else may make it fail
	}
	if err := r.pod(in.Args); err != nil {
		return nil, err
	}
	if err := r.annotations(c.Runtime); err != nil {
		return nil, err
	}
	return r, r.prev(c.PrevResult)
}

func (r *Request) pod(args string) *types.Error {
	for _, pair := range strings.Split(args, ";") {
		k, v, _ := strings.Cut(pair, "=")
		switch k {
		case "K8S_POD_NAMESPACE":
			r.Namespace = v
		case "K8S_POD_NAME":
			r.Name = v
		case "K8S_POD_UID":
			r.UID = v
		}
	}
	if r.Namespace == "" && r.Name == "" {
		r.UID = ""
		return nil // not Kubernetes
	}
	for field, v := range map[string]string{"K8S_POD_NAMESPACE": r.Namespace, "K8S_POD_NAME": r.Name} {
		if len(validation.IsDNS1123Subdomain(v)) > 0 {
			return types.NewError(types.ErrInvalidEnvironmentVariables,
				fmt.Sprintf("%s in CNI_ARGS is %q: want a Kubernetes name (at most 253 lower-case letters, digits, '-' and '.', a letter or digit before and after each dot)", field, v), "")
		}
	}
	if len(r.UID) > 128 {
		return types.NewError(types.ErrInvalidEnvironmentVariables, "K8S_POD_UID in CNI_ARGS is longer than 128 characters", "")
	}
	return nil
}

func (r *Request) annotations(raw json.RawMessage) *types.Error {
	if r.Verb != Add || len(raw) == 0 {
		return nil
	}
	var c struct {
		// The key is CapabilityAnnotations.
		Annotations map[string]string `json:"io.kubernetes.cri.pod-annotations"`
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return types.NewError(types.ErrInvalidNetworkConfig, "runtimeConfig["+CapabilityAnnotations+"]: want the pod's annotations, an object of strings", err.Error())
	}
	r.Annotations = c.Annotations
	return nil
}

func (r *Request) prev(p *prevResult) *types.Error {
	if p == nil {
		if r.Verb == Check {
			return types.NewError(types.ErrInvalidNetworkConfig, "prevResult is missing: CHECK needs the result of ADD", "")
		}
		return nil
	}
	for _, ip := range p.IPs {
		a, err := netip.ParsePrefix(ip.Address)
		if err != nil {
			return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("prevResult.ips[].address %q: want an address with a prefix length", ip.Address), "")
		}
		r.PrevAddresses = append(r.PrevAddresses, a.Addr())
	}
	r.PrevInterfaces = map[string]string{}
	for _, i := range p.Interfaces {
		r.PrevInterfaces[i.Name] = i.Sandbox
	}
	return nil
}
