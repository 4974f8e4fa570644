// Command terwayd is the node's agent: it answers the CNI plugin, wires pods and
// reports to the controller. One runs on each node.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"terway.dev/terway/internal/agent"
	"terway.dev/terway/internal/agent/journal"
	"terway.dev/terway/internal/agent/kubelet"
	"terway.dev/terway/internal/apiserver"
	"terway.dev/terway/internal/cli/logs"
	"terway.dev/terway/internal/cli/version"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/kinds"
	"terway.dev/terway/internal/scrape"
)

type flags struct {
	nodeName, namespace, kubeconfig  string
	stateDir, socket                 string
	kubeletDir, hostRoot, procSys    string
	dropIns                          bool
	cniConfDir, cniBinDir, pluginBin string
	wait                             time.Duration
	repairPeriod                     time.Duration
	cniVersion                       string
	metricsAddress, scrapeAddress    string
	debugSocket                      string
	policyHub, policyDir             string
	policyToken, askSocket           string
	log                              logs.Flags
}

func main() {
	var f flags
	cmd := &cobra.Command{
		Use:           "terwayd",
		Short:         "Terway's agent on a node",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), f) },
	}
	fl := cmd.Flags()
	fl.StringVar(&f.nodeName, "node-name", os.Getenv("NODE_NAME"), "the node's name in Kubernetes (default: $NODE_NAME)")
	fl.StringVar(&f.namespace, "namespace", os.Getenv("POD_NAMESPACE"), "namespace of the agent's Lease, by which the controller sees that the agent is alive (default: $POD_NAMESPACE); empty: no Lease")
	fl.StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig file (default: the pod's service account)")
	fl.StringVar(&f.stateDir, "state-dir", "/run/terway/state", "directory of the journal; must outlive the agent, not the node's boot")
	fl.StringVar(&f.socket, "socket", "/run/terway/terway.sock", "socket on which the CNI plugin calls")
	fl.StringVar(&f.cniConfDir, "cni-conf-dir", "/etc/cni/net.d", "directory in which the container runtime looks for CNI configurations")
	fl.StringVar(&f.cniBinDir, "cni-bin-dir", "/opt/cni/bin", "directory in which the container runtime looks for CNI plugins")
	fl.StringVar(&f.pluginBin, "plugin-binary", "/usr/bin/terway", "the CNI plugin to install into --cni-bin-dir")
	fl.StringVar(&f.kubeletDir, "kubelet-dir", "/var/lib/kubelet", "the kubelet's folder, with its device-plugins and pod-resources")
	fl.StringVar(&f.hostRoot, "host-root", "", "folder with the node's etc and run; empty: the agent changes no files of the node but its own")
	fl.StringVar(&f.procSys, "proc-sys", "/proc/sys", "folder with the node's sysctls, of which the agent writes net; a container that is not privileged has another one than /proc/sys, which is read-only there")
	fl.BoolVar(&f.dropIns, "drop-ins", true, "keep NetworkManager and systemd-networkd away from pods' devices by files below --host-root; false: remove the files of an earlier agent")
	fl.DurationVar(&f.wait, "address-wait", 25*time.Second, "how long a pod waits for an address before the attempt fails with the reason")
	fl.DurationVar(&f.repairPeriod, "repair-period", 5*time.Second, "how often the kernel is compared with the desired state")
	fl.StringVar(&f.cniVersion, "cni-version", "1.1.0", "CNI version of the configuration that is written (1.0.0 for a runtime that does not know 1.1.0)")
	fl.StringVar(&f.metricsAddress, "metrics-address", "127.0.0.1:10362", "address of /metrics, /healthz and /readyz, which only the node itself reaches; off to serve none")
	fl.StringVar(&f.scrapeAddress, "scrape-address", "off", "address of /metrics for others, for example :10367: by TLS, with a token of a user whom Kubernetes allows to get /metrics; off to serve none")
	fl.StringVar(&f.debugSocket, "debug-socket", "", "unix socket for profiles (/debug/pprof/); empty to serve none")
	fl.StringVar(&f.policyHub, "policy-hub", "", "Service of the policy hub in --namespace, with a ConfigMap of the same name that has the certificates to trust; empty: policy is off")
	fl.StringVar(&f.policyDir, "policy-dir", "/var/lib/terway", "directory of what the policy hub said last; should outlive the node's boot")
	fl.StringVar(&f.policyToken, "policy-token", "/var/run/secrets/terway-policy/token", "the agent's token for the policy hub, which is read again when it changes")
	fl.StringVar(&f.askSocket, "ask-socket", "/run/terway/ask.sock", "unix socket on which the agent answers terwayctl")
	f.log.Register(fl)

	// Shared with the agent; the other flags are the agent's alone.
	share := func(c *cobra.Command, names ...string) {
		for _, name := range names {
			c.Flags().AddFlag(fl.Lookup(name))
		}
		cmd.AddCommand(c)
	}
	version.Add(cmd)
	share(teardownCommand(&f), "state-dir", "socket", "ask-socket", "cni-conf-dir", "cni-bin-dir", "host-root", "proc-sys", "policy-dir")
	share(cniFilesCommand(&f), "cni-conf-dir")
	share(askCommand(&f), "ask-socket")
	share(waitForBlockCommand(&f), "node-name", "kubeconfig", "log-format", "verbose")
	share(flannelCommand(&f), "node-name", "kubeconfig", "cni-conf-dir", "cni-bin-dir", "log-format", "verbose")
	cmd.AddCommand(logs.Command(), probeCommand())

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := cmd.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "terwayd:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, f flags) error {
	if f.nodeName == "" {
		return fmt.Errorf("--node-name is empty: want the node's name in Kubernetes")
	}
	log, err := f.log.Start(ctx, os.Stderr)
	if err != nil {
		return err
	}
	ctrllog.SetLogger(logr.FromSlogHandler(log.Handler()))

	cfg, err := restConfig(f.kubeconfig)
	if err != nil {
		return err
	}
	j, err := journal.Open(f.stateDir)
	if err != nil {
		return err
	}
	defer func() {
		if err := j.Close(); err != nil {
			log.Error("close journal", "error", err)
		}
	}()
	lacking, err := kinds.Probe()
	if err != nil {
		return err
	}
	node, policy, err := kinds.New(kinds.Options{ProcSys: f.procSys, Log: log, Lacking: lacking})
	if err != nil {
		return err
	}
	offer := &kubelet.Plugin{Dir: filepath.Join(f.kubeletDir, "device-plugins"), Resource: claims.ResourceENI, Log: log}
	given, err := kubelet.NewResources(filepath.Join(f.kubeletDir, "pod-resources", "kubelet.sock"), claims.ResourceENI)
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	metrics, err := agent.NewMetrics(registry)
	if err != nil {
		return err
	}
	events, err := agent.RecordEvents(ctx, cfg, f.nodeName)
	if err != nil {
		return err
	}
	var leaseDuration time.Duration
	if f.namespace != "" {
		leaseDuration = agent.LeaseDuration
	}
	var a *agent.Agent
	policies, err := newPolicies(cfg, f, enforcerOf(policy, lacking), events.Node, func() { a.RequestRepair() }, log)
	if err != nil {
		return err
	}
	options := agent.Options{
		Log: log, Now: time.Now, Journal: j, Metrics: metrics, Datapath: node, WaitForAddress: f.wait,
		WantsENI: given.Has, OfferENIs: offer.Set, PodEvent: events.Pod, LeaseDuration: leaseDuration,
		Neighbours: neighbours(f.hostRoot, f.dropIns, log),
		Alive:      agent.SandboxAlive, Devices: agent.LinksByMAC,
	}
	if policies != nil {
		options.Policies = policies
		registry.MustRegister(policies)
	}
	if a, err = agent.New(options); err != nil {
		return err
	}
	if policies != nil {
		policies.Start()
	}
	registry.MustRegister(a.Collector(), version.Metric("terwayd"), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := agent.InstallPlugin(f.pluginBin, f.cniBinDir); err != nil {
		return err
	}
	cluster, err := agent.Connect(cfg, f.nodeName)
	if err != nil {
		return err
	}
	nodes := agent.NewNodeSync(a, cluster, f.nodeName)
	l, err := agent.Listen(f.socket)
	if err != nil {
		return err
	}
	conflist, err := agent.Conflist(f.socket, f.cniVersion)
	if err != nil {
		return err
	}
	pages, err := pages(f, a, registry, cfg, log)
	if err != nil {
		return err
	}
	asked, err := agent.Listen(f.askSocket)
	if err != nil {
		return fmt.Errorf("--ask-socket: %w", err)
	}
	pages = append(pages, page{asked, answers(a, policies)})
	log.Info("terwayd is running", "node", f.nodeName, "socket", f.socket, "datapaths", node.Choices())

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		a.RepairLoop(ctx, f.repairPeriod, 100*time.Millisecond, func(ok bool) error {
			if !ok {
				// Running pods keep their network, and the runtime learns from STATUS that new ones
				// must wait, so the file stays once it exists.
				return nil
			}
			return agent.WriteFile(filepath.Join(f.cniConfDir, agent.ConflistName), conflist, 0o644)
		})
	})
	wg.Go(func() { a.Watch(ctx) })
	if policies != nil {
		wg.Go(func() { cancel(policies.Run(ctx)) })
	}
	wg.Go(func() { cancel(agent.Serve(ctx, l, a)) })
	wg.Go(func() { cancel(nodes.Run(ctx)) })
	wg.Go(func() { offer.Run(ctx) })
	if f.namespace != "" {
		wg.Go(func() { agent.Lease{Client: cluster.Client, Namespace: f.namespace, Node: f.nodeName}.Run(ctx, a) })
	}
	for _, p := range pages {
		wg.Go(func() {
			if err := agent.ServeHTTP(ctx, p.l, p.h); err != nil {
				cancel(err)
			}
		})
	}
	<-ctx.Done()
	wg.Wait()
	if err := context.Cause(ctx); err != nil && err != context.Canceled {
		return err
	}
	return nil
}

type page struct {
	l net.Listener
	h http.Handler
}

// pages serves the agent's HTTP pages.
func pages(f flags, a *agent.Agent, g prometheus.Gatherer, cfg *rest.Config, log *slog.Logger) (out []page, err error) {
	if f.metricsAddress != "off" && f.metricsAddress != "" {
		if !scrape.Local(f.metricsAddress) {
			return nil, fmt.Errorf("--metrics-address %s: want an address of the node alone, such as 127.0.0.1:10362; --scrape-address serves others", f.metricsAddress)
		}
		l, err := net.Listen("tcp", f.metricsAddress)
		if err != nil {
			return nil, fmt.Errorf("--metrics-address: %w", err)
		}
		out = append(out, page{l, agent.Handler(a, g)})
	}
	if f.scrapeAddress != "off" && f.scrapeAddress != "" {
		guard, err := scrape.New(cfg, log)
		if err != nil {
			return nil, fmt.Errorf("--scrape-address: %w", err)
		}
		l, err := scrape.Listen(f.scrapeAddress)
		if err != nil {
			return nil, fmt.Errorf("--scrape-address: %w", err)
		}
		out = append(out, page{l, guard.Handler(agent.MetricsHandler(g))})
	}
	if f.debugSocket != "" {
		l, err := agent.Listen(f.debugSocket)
		if err != nil {
			return nil, fmt.Errorf("--debug-socket: %w", err)
		}
		out = append(out, page{l, agent.DebugHandler()})
	}
	return out, nil
}

func restConfig(kubeconfig string) (*rest.Config, error) {
	if err := apiserver.NoticeDeadConnections(); err != nil {
		return nil, err
	}
	if kubeconfig != "" {
		cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("--kubeconfig %s: %w", kubeconfig, err)
		}
		return cfg, nil
	}
	cfg, err := rest.InClusterConfig()
	if err != nil {
		return nil, fmt.Errorf("no --kubeconfig and no service account of a pod: %w", err)
	}
	return cfg, nil
}
