package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"terway.dev/terway/internal/kernel"
)

// makePKI makes the certificates of the control plane and the user's kubeconfig.
func (o *Options) makePKI(s *State, relay string) (*pki, error) {
	p, err := newPKI(o, time.Now())
	if err != nil {
		return nil, err
	}
	api := "https://" + netip.AddrPortFrom(s.Master.Address, apiPort).String()
	server := subject{cn: "kube-apiserver", server: true,
		dns: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + clusterDomain},
		ips: []netip.Addr{netip.MustParseAddr("127.0.0.1"), s.Master.Address, s.Options.apiServiceIP()}}
	err = errors.Join(
		p.serviceAccountKeys(),
		p.files("apiserver", server),
		p.files("apiserver-kubelet-client", subject{cn: "kube-apiserver-kubelet-client", org: "system:masters"}),
		p.files("front-proxy-client", subject{cn: "front-proxy-client"}),
		p.kubeconfig(p.path("controller-manager.conf"), api, subject{cn: "system:kube-controller-manager"}),
		p.kubeconfig(p.path("scheduler.conf"), api, subject{cn: "system:kube-scheduler"}),
		p.kubeconfig(o.Kubeconfig(), "https://"+relay, subject{cn: "lab-admin", org: "system:masters"}),
	)
	return p, err
}

// startRelay makes the API server reachable from this machine.
func (o *Options) startRelay(s *State) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("open a port on this machine for kubectl: %w", err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		return fmt.Errorf("hand the port for kubectl on: %w", err)
	}
	defer f.Close()
	s.APIServer = l.Addr().String()
	_, err = o.start(command{
		name: "relay", files: []*os.File{f},
		args: []string{o.self(), "relay", "--fd", "3", "--netns", s.Master.NetNS, "--to", s.apiServer()},
	})
	return err
}

// apiServer is the address of the API server in the VPC.
func (s *State) apiServer() string { return netip.AddrPortFrom(s.Master.Address, apiPort).String() }

// RelayIn makes the API server reachable in a network namespace, at the address that kubeconfigs
// have, until ctx ends or stop, which waits for that, is called.
func (s *State) RelayIn(ctx context.Context, netns string) (stop func() error, err error) {
	var l net.Listener
	if err := kernel.InNSAt(netns, func() (err error) {
		l, err = net.Listen("tcp", s.APIServer)
		return err
	}); err != nil {
		return nil, fmt.Errorf("open a port for the API server: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- Relay(ctx, l, s.Master.NetNS, s.apiServer()) }()
	return func() error { cancel(); return <-done }, nil
}

// startControlPlane starts etcd and the API server in the master's namespace; the others start
// when it answers.
func (o *Options) startControlPlane(s *State) error {
	const etcd = "http://127.0.0.1:2379"
	if _, err := o.start(command{name: "etcd", netns: s.Master.NetNS, args: o.etcdArgs(etcd, "http://127.0.0.1:2380")}); err != nil {
		return err
	}
	args := append(o.apiServerArgs(etcd), "--bind-address=0.0.0.0", fmt.Sprintf("--secure-port=%d", apiPort), "--advertise-address="+s.Master.Address.String(),
		// The master has no kube-proxy: webhooks are called at their pods, not at their
		// Services.
		"--enable-aggregator-routing=true")
	audit, err := o.auditArgs()
	if err != nil {
		return err
	}
	args = append(args, audit...)
	_, err = o.start(command{name: "kube-apiserver", netns: s.Master.NetNS, args: args})
	return err
}

// etcdArgs returns the command of a single etcd that serves clients and peers at these URLs.
func (o *Options) etcdArgs(client, peer string) []string {
	return []string{o.Bin("etcd"),
		"--data-dir=" + o.path("etcd"), "--name=master", "--log-level=warn",
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=master=" + peer,
		// The lab does not survive a crash of the machine anyway.
		"--unsafe-no-fsync",
	}
}

// apiServerArgs returns the command of the API server, without its listen addresses.
func (o *Options) apiServerArgs(etcd string) []string {
	pki := func(name string) string { return o.path("pki", name) }
	return []string{o.Bin("kube-apiserver"),
		"--etcd-servers=" + etcd,
		"--tls-cert-file=" + pki("apiserver.crt"), "--tls-private-key-file=" + pki("apiserver.key"), "--client-ca-file=" + pki("ca.crt"),
		"--kubelet-client-certificate=" + pki("apiserver-kubelet-client.crt"), "--kubelet-client-key=" + pki("apiserver-kubelet-client.key"),
		"--kubelet-certificate-authority=" + pki("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc." + clusterDomain,
		"--service-account-key-file=" + pki("sa.pub"), "--service-account-signing-key-file=" + pki("sa.key"),
		"--service-cluster-ip-range=" + o.Plan.ServiceCIDR.String(),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
		"--requestheader-client-ca-file=" + pki("ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-", "--requestheader-group-headers=X-Remote-Group", "--requestheader-username-headers=X-Remote-User",
		"--proxy-client-cert-file=" + pki("front-proxy-client.crt"), "--proxy-client-key-file=" + pki("front-proxy-client.key"),
		"--profiling=false",
	}
}

// startControllers starts the controller manager and the scheduler.
func (o *Options) startControllers(s *State) error {
	pki := func(name string) string { return o.path("pki", name) }
	// There is one of each, so leader election is not needed; the default client limits would
	// delay the start by seconds.
	common := func(conf string) []string {
		return []string{"--kubeconfig=" + pki(conf), "--authentication-kubeconfig=" + pki(conf), "--authorization-kubeconfig=" + pki(conf),
			"--leader-elect=false", "--bind-address=127.0.0.1", "--kube-api-qps=500", "--kube-api-burst=1000", "--profiling=false"}
	}
	// Terway's addresses come from the VPC: nodes have no range of their own.
	blocks := []string{"--allocate-node-cidrs=false"}
	if o.Network == NetworkFlannel {
		blocks = []string{"--allocate-node-cidrs=true", "--cluster-cidr=" + o.Plan.PodCIDR.String(), fmt.Sprintf("--node-cidr-mask-size=%d", o.Plan.NodeMask)}
	}
	_, err := o.start(command{name: "kube-controller-manager", netns: s.Master.NetNS,
		args: append([]string{o.Bin("kube-controller-manager"),
			"--service-account-private-key-file=" + pki("sa.key"), "--root-ca-file=" + pki("ca.crt"), "--use-service-account-credentials=true",
			"--cluster-signing-cert-file=" + pki("ca.crt"), "--cluster-signing-key-file=" + pki("ca.key"),
			"--service-cluster-ip-range=" + o.Plan.ServiceCIDR.String(),
			// A failed node is detected soon.
			"--node-monitor-grace-period=40s",
		}, append(blocks, common("controller-manager.conf")...)...)})
	if err != nil {
		return err
	}
	_, err = o.start(command{name: "kube-scheduler", netns: s.Master.NetNS,
		args: append([]string{o.Bin("kube-scheduler")}, common("scheduler.conf")...)})
	return err
}

// RESTConfig returns the client configuration for programs on this machine.
func (o *Options) RESTConfig() (*rest.Config, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", o.Kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("read the lab's kubeconfig: %w", err)
	}
	cfg.QPS, cfg.Burst = 200, 400
	return cfg, nil
}

// Client returns a client with the administrator's rights.
func (o *Options) Client() (kubernetes.Interface, error) {
	cfg, err := o.RESTConfig()
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(cfg)
}

// waitAPIServer waits until the API server reports that it is ready.
func (o *Options) waitAPIServer(ctx context.Context, c kubernetes.Interface) error {
	server, err := o.process("kube-apiserver")
	if err != nil {
		return err
	}
	return Poll(ctx, 50*time.Millisecond, func() (bool, error) {
		if !server.Alive() {
			return false, fmt.Errorf("kube-apiserver ended, the end of its log:\n%s", tail(o.path("log", "kube-apiserver.log"), 15))
		}
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		body, err := c.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err == nil && string(body) == "ok", nil
	})
}

// waitServiceAccount waits for the default service account of a namespace, without which no pod
// can be created.
func waitServiceAccount(ctx context.Context, c kubernetes.Interface, namespace string) error {
	return eventually(ctx, 50*time.Millisecond, func() error {
		if _, err := c.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{}); err != nil {
			return fmt.Errorf("service account of namespace %s: %w", namespace, err)
		}
		return nil
	})
}

// tail returns the end of a log, for messages.
func tail(path string, lines int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
