package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terway.dev/terway/internal/agent/policyapi"
	"terway.dev/terway/internal/cli/agents"
	"terway.dev/terway/internal/policy"
)

// ruled is a decision by a rule of NetworkPolicy shop/db for ingress.
func ruled(action policy.Action, number int) policyapi.Decision {
	return policyapi.DecisionOf(policy.Decision{Action: action, Reason: policy.ByRule, Tier: "default", Rule: policy.RuleID{
		Policy: policy.Ref{Kind: "NetworkPolicy", Namespace: "shop", Name: "db"}, Number: number,
	}})
}

var (
	byTier = policyapi.DecisionOf(policy.Decision{Action: policy.Deny, Reason: policy.ByTier, Tier: "default"})
	byNone = policyapi.DecisionOf(policy.Decision{Action: policy.Allow})
)

func counted(d policyapi.Decision, ingress, egress uint64) policyapi.Counter {
	return policyapi.Counter{Decision: d, Counted: policyapi.Counted{Ingress: ingress, Egress: egress}}
}

// What nodes count is added up, by rule; of the end of a tier, by direction.
func TestCounters(t *testing.T) {
	f := newFleet(t)
	since := time.Date(2026, 11, 29, 20, 0, 0, 0, time.UTC)
	answers := map[string]policyapi.Counters{
		"n1": {Since: since, Rules: []policyapi.Counter{counted(byNone, 0, 7), counted(byTier, 1, 2)}},
		"n2": {
			Since:     since,
			Rules:     []policyapi.Counter{counted(ruled(policy.Allow, 1), 0, 0), counted(ruled(policy.Allow, 0), 1200, 0), counted(byTier, 10, 0)},
			Gone:      map[string]policyapi.Counted{"deny": {Ingress: 4, Egress: 1}},
			Uncounted: 3,
		},
	}
	f.answers[policyapi.PathCounters] = func(node string, _ url.Values) (any, error) { return answers[node], nil }
	out, err := f.run(t, "counters")
	if want := `POLICY                   RULE            VERDICT  CONNECTIONS
NetworkPolicy shop/db    ingress rule 0  allow    1200
NetworkPolicy shop/db    ingress rule 1  allow    0
no policy                egress          allow    7
the end of tier default  ingress         deny     11
the end of tier default  egress          deny     2
node n2: 3 rules are not counted, as it has too many
rules that are gone allowed 0 and denied 5
`; out != want || err != nil {
		t.Errorf("%s%v, want\n%s", out, err, want)
	}
	out, err = f.run(t, "counters", "--node", "n2", "-o", "json")
	var got struct {
		Nodes []struct {
			Node string
			Gone map[string]policyapi.Counted
		}
		Counters []struct {
			Policy      *policyapi.Rule
			Direction   string
			Verdict     string
			Connections uint64
			ByNode      map[string]uint64
		}
	}
	if bad := json.Unmarshal([]byte(out), &got); bad != nil || err != nil || len(got.Nodes) != 1 || got.Nodes[0].Gone["deny"].Ingress != 4 || len(got.Counters) != 3 ||
		got.Counters[0].Policy.Name != "db" || got.Counters[0].Connections != 1200 || got.Counters[0].ByNode["n2"] != 1200 {
		t.Errorf("%s%v %v", out, bad, err)
	}

	// A node that does not answer is no reason to hide the others.
	f.answers[policyapi.PathCounters] = func(node string, _ url.Values) (any, error) {
		if node == "n1" {
			return nil, errors.New("node n1: it is down")
		}
		return answers[node], nil
	}
	if out, err = f.run(t, "counters"); err == nil || err.Error() != "node n1: it is down" || !strings.Contains(out, "ingress rule 0  allow    1200\n") {
		t.Errorf("%s%v", out, err)
	}
	f.answers[policyapi.PathCounters] = func(string, url.Values) (any, error) {
		return `{"rules": [{"action": "allow", "reason": "none", "tier": "x", "ingress": -1}]}`, nil
	}
	if out, err = f.run(t, "counters"); err == nil || !strings.Contains(err.Error(), "node n1: read the agent's answer: ") {
		t.Errorf("%s%v", out, err)
	}
	for args, want := range map[string]string{"--node gone": "--node gone: no agent runs there", "-o xml": "want text, json or yaml"} {
		if _, err := f.run(t, append([]string{"counters"}, strings.Fields(args)...)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

// flow is one that n2 has seen.
func flow(verdict, from, to string, port uint16, by policyapi.Decision) policyapi.Flow {
	at := time.Date(2026, 11, 29, 20, 0, 0, 0, time.Local)
	return policyapi.Flow{
		First: at, Last: at.Add(time.Minute), Count: 3, Verdict: verdict, From: policyapi.End{Address: from, Port: 40000}, To: policyapi.End{Address: to, Port: port}, Protocol: 6, Ingress: &by,
	}
}

func lines(flows ...policyapi.Flow) (s string) {
	for _, f := range flows {
		b, err := json.Marshal(f)
		if err != nil {
			panic(err)
		}
		s += string(b) + "\n"
	}
	return s
}

// Flows of all nodes are one a line, with the names of both ends, whoever knows them.
func TestFlows(t *testing.T) {
	f := newFleet(t)
	web := flow(policyapi.Allowed, "10.0.0.1", "10.0.0.2", 5432, ruled(policy.Allow, 0))
	web.To.Pod = "shop/db"
	out := web
	out.Egress, out.Ingress, out.Last = &byNone, nil, web.Last.Add(-time.Second)
	stranger := flow(policyapi.Denied, "198.51.100.7", "10.0.0.2", 22, byTier)
	stranger.Last = web.Last.Add(time.Second)
	cut := flow(policyapi.Denied, "10.0.0.2", "10.0.0.1", 80, byTier)
	cut.Running, cut.Last = true, web.Last.Add(2*time.Second)
	var asked []string
	f.answers[policyapi.PathFlows] = func(node string, query url.Values) (any, error) {
		asked = append(asked, query.Encode())
		if node == "n1" {
			return lines(out), nil
		}
		return lines(web, stranger, cut), nil
	}
	text, err := f.run(t, "flows")
	if want := `TIME      VERDICT  FROM          TO        TRAFFIC   BY                                     NODE  COUNT
20:00:59  allowed  shop/web      shop/db   tcp/5432  egress: no policy                      n1    3
20:01:00  allowed  shop/web      shop/db   tcp/5432  ingress: NetworkPolicy shop/db rule 0  n2    3
20:01:01  denied   198.51.100.7  shop/db   tcp/22    ingress: the end of tier default       n2    3
20:01:02  cut      shop/db       shop/web  tcp/80    ingress: the end of tier default       n2    3
`; text != want || err != nil {
		t.Errorf("%s%v, want\n%s", text, err, want)
	}
	asked = nil
	text, err = f.run(t, "flows", "--denied", "--pod", "shop/web", "--node", "n2", "-o", "json", "-f")
	if err != nil || len(asked) != 1 || asked[0] != "address=10.0.0.1&denied=true&follow=true&pod=shop%2Fweb" {
		t.Errorf("%v, asked %q", err, asked)
	}
	for i, line := range strings.Split(strings.TrimSpace(text), "\n") {
		var got policyapi.Flow
		if err := json.Unmarshal([]byte(line), &got); err != nil || got.Node != "n2" || got.To.Pod == "" {
			t.Errorf("line %d: %s %v", i, line, err)
		}
	}
	text, err = f.run(t, "flows", "-f", "--node", "n1")
	if want := "20:00:59 allowed shop/web → shop/db tcp/5432 by egress: no policy (n1)\n"; text != want || err != nil {
		t.Errorf("%s%v, want %s", text, err, want)
	}
	for answer, want := range map[string]string{
		`{"verdict": "allowed"}`:                                            `address "": want an address`,
		strings.Replace(lines(web), "shop/db", "shop/d\\u001bb", 1):         "letters that can be printed",
		strings.Replace(lines(web), `"10.0.0.2"`, `"2001:db8::1"`, 1):       "an address of the same family",
		strings.Replace(lines(web), `"allowed"`, `"maybe"`, 1):              `verdict "maybe"`,
		strings.Replace(lines(web), `"ingress"`, `"something"`, 1):          "has no decision",
		lines(web) + "{\"verdict\": \"" + strings.Repeat("x", 100_000):      "too long",
		strings.Replace(lines(web), `"action":"allow"`, `"action":"a"`, -1): `action "a"`,
	} {
		f.answers[policyapi.PathFlows] = func(string, url.Values) (any, error) { return answer, nil }
		if text, err := f.run(t, "flows", "--node", "n2"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.100s: %s%v, want %s", answer, text, err, want)
		}
	}
	f.answers[policyapi.PathFlows] = func(string, url.Values) (any, error) { return strings.Repeat("x", agents.MaxAnswer+1), nil }
	if _, err := f.run(t, "flows", "--node", "n2"); err == nil || !strings.Contains(err.Error(), "the answer has more than 67108864 bytes") {
		t.Error(err)
	}
	if _, err := f.run(t, "flows", "--pod", "web"); err == nil || err.Error() != `--pod "web": want NAMESPACE/NAME of a pod` {
		t.Error(err)
	}
}

// A preview lists the flows of the last hour that are allowed now and would be denied, each once.
func TestPreviewOfFlows(t *testing.T) {
	f := newFleet(t)
	web := flow(policyapi.Allowed, "10.0.0.1", "10.0.0.2", 5432, ruled(policy.Allow, 0))
	web.To.Pod = "shop/db"
	egress := web
	egress.Egress, egress.Ingress, egress.From.Pod, egress.To.Pod, egress.Count = &byNone, nil, "shop/web", "", 5
	admin := flow(policyapi.Allowed, "10.0.0.1", "10.0.0.2", 22, ruled(policy.Allow, 0))
	gone := flow(policyapi.Allowed, "10.0.0.1", "10.0.0.2", 9, ruled(policy.Allow, 0))
	gone.From.Pod = "shop/other"
	denied := flow(policyapi.Denied, "198.51.100.7", "10.0.0.2", 5432, byTier)
	f.answers[policyapi.PathFlows] = func(node string, _ url.Values) (any, error) {
		if node == "n1" {
			return lines(egress), nil
		}
		return lines(web, admin, gone, denied), nil
	}
	file := filepath.Join(t.TempDir(), "new.yaml")
	const narrow = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: %d}]}]
`
	write := func(port int) {
		if err := os.WriteFile(file, fmt.Appendf(nil, narrow, port), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(22)
	out, err := f.run(t, "preview", "-f", file, "--flows")
	var exit interface{ ExitStatus() int }
	if want := `
flows of the last hour that would be cut:
LAST      FROM      TO       TRAFFIC   COUNT  BY
20:01:00  shop/web  shop/db  tcp/5432  5      ingress: the end of tier default: policies of it select the pod, and no rule matches
`; !strings.HasSuffix(out, want) || !errors.As(err, &exit) || exit.ExitStatus() != 2 || !strings.Contains(out, "ignored: 1 flows of pods that are gone\n") || !strings.Contains(out, "cut     shop/web  shop/db  all but tcp/22") {
		t.Errorf("%s%v, want\n%s", out, err, want)
	}
	out, err = f.run(t, "preview", "-f", file, "--flows", "-o", "json")
	var got struct {
		Changes []any
		Flows   []struct {
			From  policyapi.End
			Count int
			By    string
		}
	}
	if bad := json.Unmarshal([]byte(out[strings.Index(out, "{"):]), &got); bad != nil || exit == nil || len(got.Changes) != 1 || len(got.Flows) != 1 || got.Flows[0].From.Pod != "shop/web" || !strings.HasPrefix(got.Flows[0].By, "ingress: ") {
		t.Errorf("%s%v %v", out, bad, err)
	}
	if out, err = f.run(t, "preview", "--delete", "NetworkPolicy/shop/db", "--flows"); err != nil || !strings.HasSuffix(out, "\nno flow of the last hour would be cut\n") {
		t.Errorf("%s%v", out, err)
	}
	if _, err = f.run(t, "preview", "--offline", ".", "-f", file, "--flows"); err == nil || !strings.Contains(err.Error(), "--flows asks the agents of a cluster") {
		t.Error(err)
	}
	f.answers[policyapi.PathFlows] = func(node string, _ url.Values) (any, error) { return nil, errors.New("node " + node + ": it is down") }
	if out, err = f.run(t, "preview", "-f", file, "--flows"); err == nil || !strings.Contains(err.Error(), "node n1: it is down") {
		t.Errorf("%s%v", out, err)
	}
}
