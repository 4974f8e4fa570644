// Package cases tests policy manifests with questions and expected answers: may this pod
// connect to that one? The cases in testdata are recipes that users follow, charts that they
// install, and manifests from bug reports of other engines.
//
// A case is a text with three parts: the cluster, the manifests, and the questions. The text
// before the parts says where the case is from and what is difficult about it. Two engines
// answer each question: the evaluator of the model, and the tables that a node uses.
package cases

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"terway.dev/terway/internal/policy"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/manifest"
	"terway.dev/terway/internal/policy/naive"
	"terway.dev/terway/internal/policy/translate"
)

func TestCases(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	answers := map[bool]int{}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for yes, n := range run(t, txtar.Parse(text)) {
				answers[yes] += n
			}
		})
	}
	t.Logf("%d times yes, %d times no", answers[true], answers[false])
}

// run asks the questions of a case and counts the answers.
func run(t *testing.T, a *txtar.Archive) map[bool]int {
	reader, err := manifest.NewReader()
	if err != nil {
		t.Fatal(err)
	}
	who, questions, notes := "", "", ""
	options := translate.Options{AllowLoadBalancerProbes: true}
	for _, f := range a.Files {
		switch text := string(f.Data); f.Name {
		case "who":
			who = text
		case "questions":
			questions = text
		case "notes":
			notes = text
		case "options":
			options.AllowLoadBalancerProbes = !strings.Contains(text, translate.SettingProbes+": false")
		default:
			if err := reader.Read(f.Data); err != nil {
				t.Fatalf("%s: %v", f.Name, err)
			}
		}
	}
	objects := reader.Objects
	cluster, more := translate.Cluster(objects)
	set, got := translate.Policies(objects, options)
	got = append(got, more...)
	people(t, who, &cluster)

	var lines []string
	for _, n := range got {
		lines = append(lines, n.String())
	}
	for line := range strings.Lines(notes) {
		line = strings.TrimSpace(line)
		found := false
		for i, n := range lines {
			if line != "" && strings.Contains(n, line) {
				lines[i], found = "", true
				break
			}
		}
		if line != "" && !found {
			t.Errorf("no note says %q: %q", line, lines)
		}
	}
	for _, n := range lines {
		if n != "" {
			t.Errorf("the case does not name the note %q", n)
		}
	}

	compiled, err := compile.Compile(set, cluster, compile.DefaultBudget)
	if err != nil {
		t.Fatal(err)
	}
	engines := engines{set, cluster, compiled.ForNode(node).Maps()}
	answers := map[bool]int{}
	for line := range strings.Lines(questions) {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) != 5 || f[1] != ">" || f[4] != "yes" && f[4] != "no" {
			t.Fatalf("%q: want SOURCE > DESTINATION PROTOCOL/PORT yes or no", line)
		}
		yes, why := may(t, engines, cluster, f[0], f[2], f[3])
		answers[yes]++
		if yes != (f[4] == "yes") {
			t.Errorf("%s: %v, %s", strings.TrimSpace(line), yes, why)
		}
	}
	return answers
}

// node is the name of the node that all pods of a case run on.
const node = "node"

// engines are the two engines that answer.
type engines struct {
	set     policy.Set
	cluster policy.Cluster
	tables  *compile.Maps
}

// decide asks both engines.
func (e engines) decide(t *testing.T, c policy.Connection) policy.Decision {
	t.Helper()
	d, _ := naive.Decide(e.set, e.cluster, c)
	m := e.tables
	if got := m.Decision(m.Lookup(compile.Packet{
		Endpoint: m.EndpointOf[c.Pod], Direction: c.Direction, Peer: c.Peer, Protocol: c.Protocol,
		SourcePort: c.SourcePort, DestinationPort: c.DestinationPort, ICMPType: c.ICMPType, ICMPCode: c.ICMPCode,
	})); !reflect.DeepEqual(got, d) {
		t.Errorf("%+v: the tables give %+v, the model %+v", c, got, d)
	}
	return d
}

// people parses the cluster, one object a line:
//
//	namespace NAME LABEL=VALUE …
//	node NAME ADDRESS … LABEL=VALUE …
//	account NAMESPACE/NAME LABEL=VALUE …
//	pod NAMESPACE/NAME ADDRESS … LABEL=VALUE … port:NAME=PROTOCOL/PORT account:NAME host ended
//	service NAMESPACE/NAME ADDRESS PROTOCOL/PORT
func people(t *testing.T, text string, c *policy.Cluster) {
	s := bufio.NewScanner(strings.NewReader(text))
	for s.Scan() {
		f := strings.Fields(s.Text())
		if len(f) == 0 {
			continue
		}
		if len(f) < 2 {
			t.Fatalf("%q", s.Text())
		}
		labels := policy.Labels{}
		var addresses []netip.Addr
		pod := &policy.Pod{NamespacedName: named(f[1]), Labels: labels, ServiceAccount: "default", Node: node}
		endpoint := policy.Endpoint{}
		for _, word := range f[2:] {
			if a, err := netip.ParseAddr(word); err == nil {
				addresses = append(addresses, a)
			} else if port, ok := strings.CutPrefix(word, "port:"); ok {
				name, of, _ := strings.Cut(port, "=")
				protocol, number := protocol(t, of)
				pod.Ports = append(pod.Ports, policy.NamedPort{Name: name, Protocol: protocol, Port: number})
			} else if account, ok := strings.CutPrefix(word, "account:"); ok {
				pod.ServiceAccount = account
			} else if key, value, ok := strings.Cut(word, "="); ok {
				labels[key] = value
			} else if strings.Contains(word, "/") {
				endpoint.Protocol, endpoint.Port = protocol(t, word)
			} else if word == "host" {
				pod.HostNetwork = true
			} else if word == "ended" {
				pod.Ended = true
			} else {
				t.Fatalf("%q: %q", s.Text(), word)
			}
		}
		switch f[0] {
		case "namespace":
			c.Namespaces[f[1]] = labels
		case "node":
			c.Nodes[f[1]] = &policy.Node{Labels: labels, Addresses: addresses}
		case "account":
			c.ServiceAccounts[named(f[1])] = labels
		case "pod":
			pod.Addresses = addresses
			c.Pods[pod.NamespacedName] = pod
			if c.Namespaces[pod.Namespace] == nil {
				c.Namespaces[pod.Namespace] = policy.Labels{}
			}
		case "service":
			for _, a := range addresses {
				endpoint.Address = a
				c.Services[named(f[1])] = append(c.Services[named(f[1])], endpoint)
			}
		default:
			t.Fatalf("%q: want namespace, node, account, pod or service", s.Text())
		}
	}
}

func named(text string) policy.NamespacedName {
	namespace, name, _ := strings.Cut(text, "/")
	return policy.NamespacedName{Namespace: namespace, Name: name}
}

// protocol parses "tcp/80", "icmp/8" (the type), "icmp/3.4" (type and code) and "47/0".
func protocol(t *testing.T, text string) (uint8, uint16) {
	name, port, _ := strings.Cut(text, "/")
	numbers := map[string]uint8{"tcp": policy.TCPProtocol, "udp": policy.UDPProtocol, "sctp": policy.SCTPProtocol, "icmp": policy.ICMPProtocol, "icmpv6": policy.ICMPv6Protocol}
	number, ok := numbers[name]
	if !ok {
		n, err := strconv.ParseUint(name, 10, 8)
		if err != nil {
			t.Fatalf("%q is no protocol", text)
		}
		number = uint8(n)
	}
	kind, code, _ := strings.Cut(port, ".")
	n, err := strconv.ParseUint(kind, 10, 16)
	if err != nil {
		t.Fatalf("%q has no port", text)
	}
	if number == policy.ICMPProtocol || number == policy.ICMPv6Protocol {
		c, _ := strconv.ParseUint(code, 10, 8)
		n = n<<8 | c
	}
	return number, uint16(n)
}

// may judges a connection at each end that is a pod with policies. The destination is the first
// address of a pod in the family of the source. A SOURCE with a port is ADDRESS@PORT or
// POD@PORT.
func may(t *testing.T, e engines, cluster policy.Cluster, from, to, what string) (bool, string) {
	from, sourcePort, _ := strings.Cut(from, "@")
	source, sourceAddrs := end(t, cluster, from)
	destination, destinationAddrs := end(t, cluster, to)
	protocol, port := protocol(t, what)
	c := policy.Connection{Protocol: protocol, SourcePort: 40000, DestinationPort: port}
	if sourcePort != "" {
		n, err := strconv.ParseUint(sourcePort, 10, 16)
		if err != nil {
			t.Fatal(err)
		}
		c.SourcePort = uint16(n)
	}
	if protocol == policy.ICMPProtocol || protocol == policy.ICMPv6Protocol {
		c.ICMPType, c.ICMPCode = uint8(port>>8), uint8(port)
		c.SourcePort, c.DestinationPort = 0, 0
	}
	var src, dst netip.Addr
	for _, a := range sourceAddrs {
		for _, b := range destinationAddrs {
			if a.Is4() == b.Is4() && !src.IsValid() {
				src, dst = a, b
			}
		}
	}
	if !src.IsValid() {
		t.Fatalf("%s and %s have no addresses of one family", from, to)
	}
	why := ""
	if source != nil {
		c.Pod, c.Direction, c.Own, c.Peer = source.NamespacedName, policy.Egress, src, dst
		d := e.decide(t, c)
		why = fmt.Sprintf("egress of %s: %s by %s %s", from, d.Action, d.Tier, d.Rule)
		if d.Action != policy.Allow {
			return false, why
		}
	}
	if destination != nil {
		c.Pod, c.Direction, c.Own, c.Peer = destination.NamespacedName, policy.Ingress, dst, src
		d := e.decide(t, c)
		why += fmt.Sprintf("; ingress of %s: %s by %s %s", to, d.Action, d.Tier, d.Rule)
		if d.Action != policy.Allow {
			return false, why
		}
	}
	return true, why
}

// end returns a pod with policies and its addresses, or addresses alone. A pod in the host
// network has the addresses of its node.
func end(t *testing.T, cluster policy.Cluster, name string) (*policy.Pod, []netip.Addr) {
	if a, err := netip.ParseAddr(name); err == nil {
		for _, p := range cluster.Pods {
			for _, own := range p.Addresses {
				if own == a && !p.HostNetwork && !p.Ended {
					t.Fatalf("%s is %s: ask by its name", name, p)
				}
			}
		}
		return nil, []netip.Addr{a}
	}
	if n := cluster.Nodes[name]; n != nil {
		return nil, n.Addresses
	}
	p := cluster.Pods[named(name)]
	if p == nil {
		t.Fatalf("there is no %q", name)
	}
	if p.HostNetwork {
		return nil, p.Addresses
	}
	if p.Ended {
		t.Fatalf("%s has ended", name)
	}
	return p, p.Addresses
}
