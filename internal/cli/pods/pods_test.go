package pods

import (
	"bytes"
	"encoding/json"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cli/cluster/clustertest"
	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/cloud/alibaba"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/faults"
	"terway.dev/terway/internal/vpcsim/state"
)

// world is a cluster with one node and one pod, in a simulated cloud.
type world struct {
	*testing.T
	sim      *vpcsim.Server
	cloud    *alibaba.Client
	cluster  *clustertest.Server
	eni      *cloud.ENI
	vswitch  string
	group    string
	progress io.Writer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	sim, err := vpcsim.New(vpcsim.Options{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	})
	a := sim.Account()
	for name, value := range map[string]string{
		"ECS_ENDPOINT": sim.Endpoint(), "VPC_ENDPOINT": sim.Endpoint(), "ALIBABA_CLOUD_REGION_ID": "",
		"ALIBABA_CLOUD_ACCESS_KEY_ID": a.AccessKeyID, "ALIBABA_CLOUD_ACCESS_KEY_SECRET": a.AccessKeySecret,
	} {
		t.Setenv(name, value)
	}
	w := &world{T: t, sim: sim, progress: io.Discard}
	if w.cloud, err = alibaba.New(alibaba.Config{Region: sim.Region(), ECSEndpoint: sim.Endpoint(), VPCEndpoint: sim.Endpoint(), Credentials: alibaba.ChainCredentials()}); err != nil {
		t.Fatal(err)
	}
	var vpc, instance string
	w.write(func(a state.API) error {
		v, err := a.CreateVpc(state.CreateVpcRequest{CidrBlock: "192.168.0.0/16"})
		if err == nil {
			vpc = v.VpcId
		}
		return err
	})
	w.write(func(a state.API) (err error) {
		if w.vswitch, err = a.CreateVSwitch(state.CreateVSwitchRequest{VpcId: vpc, ZoneId: "cn-hangzhou-i", CidrBlock: "192.168.32.0/19"}); err != nil {
			return err
		}
		w.group, err = a.CreateSecurityGroup(state.CreateSecurityGroupRequest{VpcId: vpc})
		return err
	})
	w.write(func(a state.API) error {
		ids, err := a.RunInstances(state.RunInstancesRequest{InstanceType: "ecs.g6.large", VSwitchId: w.vswitch, SecurityGroupId: w.group, ImageId: "none"})
		if err == nil {
			instance = ids[0]
		}
		return err
	})
	eni := w.createENI("t1")
	if err := w.cloud.AttachENI(t.Context(), eni.ID, instance); err != nil {
		t.Fatal(err)
	}
	w.eni = eni

	nn := &v1alpha1.NodeNetwork{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}
	nn.Spec.InstanceID, nn.Spec.Zone, nn.Spec.ClusterID = instance, "cn-hangzhou-i", "c1"
	e := v1alpha1.ENI{Token: "t1", ID: eni.ID, Phase: v1alpha1.ENIReady, VSwitchID: w.vswitch, PrimaryAddress: eni.Primary.String()}
	for _, a := range eni.Addresses {
		e.Addresses = append(e.Addresses, v1alpha1.Address{Address: a.String()})
	}
	nn.Spec.ENIs = []v1alpha1.ENI{e}
	nn.Status.Used = []v1alpha1.UsedAddress{{Address: w.address(), Pod: "shop/web"}}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Spec: corev1.PodSpec{NodeName: "node1"}}
	pod.Status.Phase, pod.Status.PodIP = corev1.PodRunning, w.address()
	w.cluster = clustertest.New(t, nn, pod)
	return w
}

func (w *world) write(f func(state.API) error) {
	w.Helper()
	if err := w.sim.Write(w.Context(), f); err != nil {
		w.Fatal(err)
	}
}

// createENI creates one of the cluster.
func (w *world) createENI(token string) *cloud.ENI {
	w.Helper()
	eni, err := w.cloud.CreateENI(w.Context(), cloud.CreateENIRequest{Token: token, VSwitchID: w.vswitch, SecurityGroups: []string{w.group}, SecondaryCount: 1,
		Tags: map[string]string{claims.TagCreator: claims.Creator, claims.TagCluster: "c1", claims.TagNode: "node1", claims.TagToken: token}})
	if err != nil {
		w.Fatal(err)
	}
	return eni
}

// address is the pod's.
func (w *world) address() string {
	for _, a := range w.eni.Addresses {
		if a != w.eni.Primary {
			return a.String()
		}
	}
	w.Fatalf("%+v has no secondary address", w.eni)
	return ""
}

func (w *world) run(args string) (string, error) {
	w.Helper()
	cmd := newCommand(time.Millisecond)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(w.progress)
	cmd.SetArgs(append(strings.Fields(args), "--kubeconfig", w.cluster.Kubeconfig))
	err := cmd.ExecuteContext(w.Context())
	return out.String(), err
}

// agrees expects that nothing is found.
func (w *world) agrees(args string) {
	w.Helper()
	if out, err := w.run(args); err != nil || strings.Contains(out, "problem") {
		w.Errorf("%s: %v, want no problem\n%s", args, err, out)
	}
}

// finds expects that one thing is found.
func (w *world) finds(args, verdict, problem string) {
	w.Helper()
	out, err := w.run(args)
	if err == nil || err.Error() != verdict || !strings.Contains(out, "\nproblem: "+problem+"\n") {
		w.Errorf("%s: %v\n%s\nwant %s, and %s", args, err, out, verdict, problem)
	}
}

// Each pod has a row with what its address is of.
func TestPods(t *testing.T) {
	w := newWorld(t)
	out, err := w.run("")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if got, want := strings.Fields(lines[len(lines)-1]), []string{"shop/web", w.address(), w.eni.ID, w.vswitch, "node1"}; len(lines) != 2 || strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("got\n%s\nwant the row %s", out, want)
	}
	for args, want := range map[string]string{"-n shop": "web", "--node node1": "web", "-n other": "", "--node node2": ""} {
		out, err := w.run(args + " -o json")
		var r report
		if jsonErr := json.Unmarshal([]byte(out), &r); err != nil || jsonErr != nil || len(r.Pods) != len(want)/3 || r.Findings != nil || r.Pods == nil {
			t.Errorf("%s: %v, %v\n%s", args, err, jsonErr, out)
		}
	}
	if asked := strings.Join(w.cluster.Asked(), " "); strings.Contains(asked, "/pods") {
		t.Errorf("without --check it asked for %s, want no pods", asked)
	}
}

// What the cloud, the NodeNetworks and the pods say differently is found, each with one cause.
func TestCheck(t *testing.T) {
	w := newWorld(t)
	w.agrees("--check")
	if out, _ := w.run("--check"); !strings.Contains(out, "compared: 1 node and 1 address of pods with 1 ENI of the cloud\n") {
		t.Errorf("it says\n%s", out)
	}

	left := w.createENI("t2")
	w.finds("--check", "1 problem: 1 leak", "leak: "+left.ID+" (Available, vSwitch "+w.vswitch+") has the tags of node node1, whose NodeNetwork does not have it")
	w.agrees("--check --no-cloud")
	if err := w.cloud.DeleteENI(t.Context(), left.ID); err != nil {
		t.Fatal(err)
	}
	w.agrees("--check")

	more, err := w.cloud.AssignAddresses(t.Context(), w.eni.ID, 1, "a1")
	if err != nil {
		t.Fatal(err)
	}
	w.finds("--check", "1 problem: 1 leak", "leak: address "+more[0].String()+" is on "+w.eni.ID+" in the cloud, and not in the NodeNetwork of node node1")
	if err := w.cloud.UnassignAddresses(t.Context(), w.eni.ID, append(more, netip.MustParseAddr(w.address()))); err != nil {
		t.Fatal(err)
	}
	w.finds("--check", "1 problem: 1 missing", "missing: address "+w.address()+" of node node1 is not on "+w.eni.ID+" in the cloud")

	w.cluster.Change(func(o []client.Object) []client.Object { return o[:1] })
	w.finds("--check --no-cloud", "1 problem: 1 leak", "leak: node node1 keeps address "+w.address()+" for pod shop/web, which does not exist")
	out, err := w.run("--check -o json")
	var r report
	if jsonErr := json.Unmarshal([]byte(out), &r); err == nil || jsonErr != nil || len(r.Findings) != 2 || r.Findings[0].Pods[0] != "shop/web" || r.Findings[1].ENI != w.eni.ID || *r.Compared.ENIs != 1 {
		t.Errorf("-o json: %v, %v\n%s", err, jsonErr, out)
	}
}

// An ENI whose tags somebody has removed is still found in the cloud.
func TestTagsRemoved(t *testing.T) {
	w := newWorld(t)
	w.cluster.Change(func(o []client.Object) []client.Object {
		o[0].(*v1alpha1.NodeNetwork).Spec.ClusterID = "c2" // as if the tags said c1 by mistake
		return o
	})
	w.agrees("--check")
}

// when calls f when a line is written.
type when func()

func (f when) Write(b []byte) (int, error) {
	f()
	return len(b), nil
}

// A difference that ends while the command looks again is not told.
func TestUnderWay(t *testing.T) {
	w := newWorld(t)
	left := w.createENI("t2")
	said := 0
	w.progress = when(func() {
		said++
		if err := w.cloud.DeleteENI(t.Context(), left.ID); err != nil {
			t.Error(err)
		}
	})
	w.agrees("--check")
	if said != 1 {
		t.Errorf("it said %d times that it looks again, want once", said)
	}
}

// Errors say what is needed.
func TestErrors(t *testing.T) {
	w := newWorld(t)
	for args, want := range map[string]string{
		"--no-cloud":                   "--no-cloud without --check",
		"--check -n shop":              "it compares the whole cluster",
		"--check --node node1":         "it compares the whole cluster",
		"pod":                          "takes no arguments",
		"--check --region cn_hangzhou": "cn_hangzhou",
	} {
		if _, err := w.run(args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", args, err, want)
		}
	}
	if err := w.sim.AddFaults(faults.Rule{Action: "DescribeNetworkInterfaces", Error: &faults.Error{Code: "Forbidden.RAM", Status: 403}}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.run("--check"); err == nil || !strings.Contains(err.Error(), "give your RAM user or role ecs:DescribeNetworkInterfaces") {
		t.Errorf("forbidden by the cloud: %v", err)
	}
	w.cluster.Refuse("pods")
	if _, err := w.run("--check --no-cloud"); err == nil || !strings.Contains(err.Error(), "does not let this user read pods of all namespaces; --help says what is needed") {
		t.Errorf("forbidden by the cluster: %v", err)
	}
	w.cluster.Change(func([]client.Object) []client.Object { return nil })
	if _, err := w.run(""); err == nil || !strings.Contains(err.Error(), "it has no NodeNetworks") {
		t.Errorf("no NodeNetworks: %v", err)
	}
}
