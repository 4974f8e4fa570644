package request

import (
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"terway.dev/terway/internal/cnicall"
)

func valid() cnicall.Request {
	return cnicall.Request{
		ContainerID: "0123abc", NetNS: "/run/netns/cni-1", IfName: "eth0",
		Args:   "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=u-1",
		Config: []byte(`{"cniVersion":"1.1.0","name":"terway","type":"terway"}`),
	}
}

func TestParse(t *testing.T) {
	for name, c := range map[string]struct {
		verb Verb
		edit func(*cnicall.Request)
		code uint   // 0: must be accepted
		says string // part of the message
	}{
		"add":                  {verb: Add},
		"unknown verb":         {"MOVE", nil, types.ErrInvalidEnvironmentVariables, `"MOVE"`},
		"not JSON":             {Add, func(r *cnicall.Request) { r.Config = []byte("{") }, types.ErrDecodingFailure, "network configuration"},
		"old version":          {Add, func(r *cnicall.Request) { r.Config = []byte(`{"cniVersion":"0.2.0","name":"n"}`) }, types.ErrIncompatibleCNIVersion, `"0.2.0"`},
		"check is newer":       {Check, func(r *cnicall.Request) { r.Config = []byte(`{"cniVersion":"0.3.1","name":"n"}`) }, types.ErrIncompatibleCNIVersion, `CHECK needs 0.4.0`},
		"status is newer":      {Status, func(r *cnicall.Request) { r.Config = []byte(`{"cniVersion":"1.0.0","name":"n"}`) }, types.ErrIncompatibleCNIVersion, `STATUS needs 1.1.0`},
		"no name":              {Add, func(r *cnicall.Request) { r.Config = []byte(`{"cniVersion":"1.0.0"}`) }, types.ErrInvalidNetworkConfig, "name"},
		"no sandbox":           {Add, func(r *cnicall.Request) { r.ContainerID = "" }, types.ErrUnknownContainer, "containerID"},
		"sandbox a path":       {Add, func(r *cnicall.Request) { r.ContainerID = "../../x" }, types.ErrInvalidEnvironmentVariables, "containerID"},
		"interface a path":     {Add, func(r *cnicall.Request) { r.IfName = "a/b" }, types.ErrInvalidEnvironmentVariables, "interface name"},
		"relative netns":       {Add, func(r *cnicall.Request) { r.NetNS = "run/x" }, types.ErrInvalidEnvironmentVariables, `"run/x"`},
		"no netns":             {Add, func(r *cnicall.Request) { r.NetNS = "" }, types.ErrInvalidEnvironmentVariables, "CNI_NETNS"},
		"no pod":               {Add, func(r *cnicall.Request) { r.Args = "" }, 0, ""},
		"half a pod":           {Add, func(r *cnicall.Request) { r.Args = "K8S_POD_NAMESPACE=a" }, types.ErrInvalidEnvironmentVariables, "K8S_POD_NAME"},
		"long sandbox":         {Add, func(r *cnicall.Request) { r.ContainerID = strings.Repeat("a", 257) }, types.ErrInvalidEnvironmentVariables, "257"},
		"bad pod":              {Add, func(r *cnicall.Request) { r.Args = "K8S_POD_NAMESPACE=a;K8S_POD_NAME=B_" }, types.ErrInvalidEnvironmentVariables, `"B_"`},
		"pod name with a gap":  {Add, func(r *cnicall.Request) { r.Args = "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b..c" }, types.ErrInvalidEnvironmentVariables, `"b..c"`},
		"namespace too long":   {Add, func(r *cnicall.Request) { r.Args = "K8S_POD_NAME=b;K8S_POD_NAMESPACE=" + strings.Repeat("a", 254) }, types.ErrInvalidEnvironmentVariables, "at most 253"},
		"del needs little":     {Del, func(r *cnicall.Request) { r.NetNS, r.Args = "", "" }, 0, ""},
		"check without result": {Check, nil, types.ErrInvalidNetworkConfig, "prevResult"},
		"check bad address": {Check, func(r *cnicall.Request) {
			r.Config = []byte(`{"cniVersion":"1.0.0","name":"n","prevResult":{"ips":[{"address":"1.2.3.4"}]}}`)
		}, types.ErrInvalidNetworkConfig, `"1.2.3.4"`},
		"annotations not strings": {Add, func(r *cnicall.Request) {
			r.Config = []byte(`{"cniVersion":"1.0.0","name":"n","runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"a":1}}}`)
		}, types.ErrInvalidNetworkConfig, "pod-annotations"},
		"del with annotations not strings": {Del, func(r *cnicall.Request) {
			r.Config = []byte(`{"cniVersion":"1.0.0","name":"n","runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"a":1}}}`)
		}, 0, ""},
		"gc without list": {GC, nil, types.ErrInvalidNetworkConfig, "valid-attachments"},
		"gc": {GC, func(r *cnicall.Request) {
			r.Config = []byte(`{"cniVersion":"1.1.0","name":"n","cni.dev/valid-attachments":[]}`)
		}, 0, ""},
		"gc with null for none": {GC, func(r *cnicall.Request) {
			r.Config = []byte(`{"cniVersion":"1.1.0","name":"n","cni.dev/valid-attachments":null}`)
		}, 0, ""},
		"gc with a word": {GC, func(r *cnicall.Request) {
			r.Config = []byte(`{"cniVersion":"1.1.0","name":"n","cni.dev/valid-attachments":"all"}`)
		}, types.ErrInvalidNetworkConfig, "valid-attachments"},
		"status": {Status, func(r *cnicall.Request) { r.ContainerID, r.NetNS, r.IfName, r.Args = "", "", "", "" }, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			in := valid()
			if c.edit != nil {
				c.edit(&in)
			}
			in.Verb = string(c.verb)
			_, err := Parse(in)
			switch {
			case c.code == 0 && err != nil:
				t.Errorf("refused: %v", err)
			case c.code != 0 && err == nil:
				t.Errorf("accepted, want code %d", c.code)
			case c.code != 0 && (err.Code != c.code || !strings.Contains(err.Error(), c.says)):
				t.Errorf("got code %d %q, want code %d naming %q", err.Code, err, c.code, c.says)
			}
		})
	}
}

func TestAnnotations(t *testing.T) {
	in := valid()
	in.Config = []byte(`{"cniVersion":"1.0.0","name":"n","runtimeConfig":{"portMappings":[],"` + CapabilityAnnotations + `":{"a/b":"c"}}}`)
	in.Verb = string(Add)
	if r, err := Parse(in); err != nil || len(r.Annotations) != 1 || r.Annotations["a/b"] != "c" {
		t.Errorf("%+v, %v", r, err)
	}
	in.Config = valid().Config
	if r, err := Parse(in); err != nil || r.Annotations != nil {
		t.Errorf("a runtime that passes none: %+v, %v", r, err)
	}
}

func FuzzParse(f *testing.F) {
	v := valid()
	f.Add("ADD", v.ContainerID, v.NetNS, v.IfName, v.Args, v.Config)
	f.Add("CHECK", "x", "/a/../b", "eth0", "K8S_POD_NAME=a", []byte(`{"cniVersion":"1.0.0","name":"n","prevResult":{"ips":[{"address":"::1/128"}]}}`))
	f.Add("GC", "", "", "", "", []byte(`{"cniVersion":"1.1.0","name":"n","cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]}`))
	f.Add("ADD", "x", "/a", "eth0", "", []byte(`{"cniVersion":"1.0.0","name":"n","runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"network.terway.dev/exclusive-eni":"true"}}}`))
	f.Fuzz(func(t *testing.T, verb, id, netns, ifname, args string, config []byte) {
		r, err := Parse(cnicall.Request{Verb: verb, ContainerID: id, NetNS: netns, IfName: ifname, Args: args, Config: config})
		if err != nil {
			return
		}
		if strings.ContainsAny(r.ContainerID+r.IfName, "/\x00") || strings.Contains(r.NetNS, "..") && strings.Contains(r.NetNS, "/../") {
			t.Errorf("unsafe request accepted: %+v", r)
		}
		if (r.Verb == Add || r.Verb == Check) && ((r.Name == "") != (r.Namespace == "") || r.NetNS == "" || r.ContainerID == "") {
			t.Errorf("incomplete request accepted: %+v", r)
		}
	})
}
