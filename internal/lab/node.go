package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"sigs.k8s.io/yaml"

	"terway.dev/terway/internal/datapath/claims"
)

// nodeConfig is the configuration of a node's first process.
type nodeConfig struct {
	Machine Machine `json:"machine"`
	Options Options `json:"options"`
}

func (o *Options) nodeDir(name string, elem ...string) string {
	return filepath.Join(append([]string{o.Dir, "nodes", name}, elem...)...)
}

// prepareNode writes a node's certificates and configuration.
func (o *Options) prepareNode(p *pki, s *State, m Machine) error {
	server := "https://" + netip.AddrPortFrom(s.Master.Address, apiPort).String()
	user := subject{cn: "system:node:" + m.Name, org: "system:nodes"}
	if err := p.kubeconfig(o.nodeDir(m.Name, "kubelet.conf"), server, user); err != nil {
		return err
	}
	if err := p.kubeconfig(o.nodeDir(m.Name, "kube-proxy.conf"), server, subject{cn: "system:kube-proxy"}); err != nil {
		return err
	}
	serving := subject{cn: user.cn, org: user.org, server: true, dns: []string{m.Name}, ips: []netip.Addr{m.Address}}
	if err := p.files(m.Name, serving); err != nil {
		return err
	}
	for name, v := range map[string]any{
		"kubelet.yaml":    o.kubeletConfig(m),
		"kube-proxy.yaml": o.kubeProxyConfig(m),
	} {
		b, err := yaml.Marshal(v)
		if err != nil {
			return fmt.Errorf("encode %s: %w", name, err)
		}
		if err := writeFile(o.nodeDir(m.Name, name), b, 0o644); err != nil {
			return err
		}
	}
	if err := writeFile(o.nodeDir(m.Name, "containerd.toml"), []byte(containerdConfig), 0o644); err != nil {
		return err
	}
	// The lab has no external DNS: an empty file keeps this machine's servers out of pods.
	if err := writeFile(o.nodeDir(m.Name, "resolv.conf"), nil, 0o644); err != nil {
		return err
	}
	b, err := json.MarshalIndent(nodeConfig{Machine: m, Options: *o}, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the configuration of %s: %w", m.Name, err)
	}
	return writeFile(o.nodeDir(m.Name, "node.json"), b, 0o644)
}

// startNode starts a node's processes in the namespace of its instance.
func (o *Options) startNode(ctx context.Context, m Machine) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err := o.start(command{
		name: "node-" + m.Name, netns: m.NetNS,
		args: []string{o.self(), "node-init", "--config", o.nodeDir(m.Name, "node.json")},
		log:  o.nodeDir(m.Name, "log", "init.log"),
	})
	return err
}

// self returns the copy of this program that the lab's own processes run, so that a new build
// does not affect them.
func (o *Options) self() string { return o.path("bin", "terway-lab") }

// Terwayctl returns the path of the operator's tool of the lab, in the user's PATH.
func (o *Options) Terwayctl() string { return o.path("bin", "terwayctl") }

func (o *Options) installPrograms() error {
	// The file of this program may have been deleted: it may be the copy of an earlier lab.
	if err := copyFile("/proc/self/exe", o.self(), 0o755); err != nil {
		return err
	}
	for name, file := range o.userPrograms() {
		if err := os.Symlink(file, o.path("bin", name)); err != nil {
			return fmt.Errorf("link %s for the user's PATH: %w", name, err)
		}
	}
	return nil
}

// userPrograms are the programs of the cache for the user's PATH. Others, such as containerd,
// might hide the machine's own.
func (o *Options) userPrograms() map[string]string {
	return map[string]string{"terwayctl": o.cached("terway", "terwayctl"), "kubectl": o.Bin("kubectl"), "helm": o.Bin("helm")}
}

const containerdConfig = `version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '` + ImagePause + `'
[plugins.'io.containerd.cri.v1.runtime']
  disable_apparmor = true
  # A root without CAP_SYS_RESOURCE cannot lower an OOM score: every sandbox would
  # fail with a message about something else.
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["/opt/cni/bin"]
  conf_dir = "/etc/cni/net.d"
  use_internal_loopback = true
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
    BinaryName = 'runc'
    SystemdCgroup = false
[plugins.'io.containerd.metadata.v1.bolt']
  # The lab does not outlive a crash of the machine.
  no_sync = true
`

// kubeletConfig returns a KubeletConfiguration; its Go type is in a module that the product
// does not need.
func (o *Options) kubeletConfig(m Machine) map[string]any {
	conf := map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
		"cgroupDriver":             "cgroupfs",
		"failCgroupV1":             false,
		"failSwapOn":               false,
		"authentication": map[string]any{
			"anonymous": map[string]any{"enabled": false},
			"webhook":   map[string]any{"enabled": true},
			"x509":      map[string]any{"clientCAFile": o.path("pki", "ca.crt")},
		},
		"authorization":          map[string]any{"mode": "Webhook"},
		"tlsCertFile":            o.path("pki", m.Name+".crt"),
		"tlsPrivateKeyFile":      o.path("pki", m.Name+".key"),
		"clusterDomain":          clusterDomain,
		"clusterDNS":             []string{o.dnsServiceIP().String()},
		"resolvConf":             o.nodeDir(m.Name, "resolv.conf"),
		"providerID":             o.Plan.Region + "." + m.InstanceID,
		"maxPods":                m.MaxPods,
		"registerWithTaints":     []map[string]any{{"key": claims.TaintNotReady, "effect": "NoSchedule"}},
		"makeIPTablesUtilChains": false,
		// All nodes share the machine's disk and memory: a node must not evict pods or delete
		// images because of another's use.
		"evictionHard":                map[string]any{"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
		"imageGCHighThresholdPercent": 100,
		// What a node offers is reported, and a container that has ended is started again, after a second: a lab changes the one and ends the other often.
		"nodeStatusUpdateFrequency": "1s",
		"nodeStatusReportFrequency": "5s",
		"crashLoopBackOff":          map[string]any{"maxContainerRestartPeriod": "1s"},
		"registryPullQPS":           0,
		"eventRecordQPS":            0,
		"kubeAPIQPS":                100, "kubeAPIBurst": 200,
	}
	switch minor := minorOf(o.kubernetes()); {
	case minor < 32:
		delete(conf, "crashLoopBackOff")
	case minor < 35:
		conf["featureGates"] = map[string]any{"KubeletCrashLoopBackOffMax": true}
	}
	return conf
}

func (o *Options) kubeProxyConfig(m Machine) map[string]any {
	conf := map[string]any{
		"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
		"clientConnection": map[string]any{"kubeconfig": o.nodeDir(m.Name, "kube-proxy.conf")},
		"mode":             "nftables",
		"hostnameOverride": m.Name,
		"detectLocalMode":  "InterfaceNamePrefix",
		"detectLocal":      map[string]any{"interfaceNamePrefix": claims.DevicePrefix},
		// Zero keeps the machine-wide limits of connection tracking.
		"conntrack": map[string]any{"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
	}
	if o.Network == NetworkFlannel {
		delete(conf, "detectLocal")
		conf["detectLocalMode"], conf["clusterCIDR"] = "ClusterCIDR", o.Plan.PodCIDR.String()
	}
	return conf
}

// kubeletArgs are the options that the configuration file does not have.
func (c *nodeConfig) kubeletArgs() []string {
	o, m := &c.Options, c.Machine
	return []string{
		"--config=" + o.nodeDir(m.Name, "kubelet.yaml"),
		"--kubeconfig=" + o.nodeDir(m.Name, "kubelet.conf"),
		"--hostname-override=" + m.Name,
		"--node-ip=" + m.Address.String(),
		"--node-labels=topology.kubernetes.io/region=" + o.Plan.Region +
			",topology.kubernetes.io/zone=" + m.Zone +
			",node.kubernetes.io/instance-type=" + m.Type,
	}
}
