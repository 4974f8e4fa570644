// Command terway-controller gives the cluster's nodes their ENIs and addresses,
// or, with Flannel, the VPC's routes to their pod CIDRs, and Services their load balancers.
// It is the only part of Terway that talks to the cloud.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	_ "golang.org/x/crypto/x509roots/fallback" // the image has no certificates of authorities; mounted ones have precedence
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	cnpv1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	v3 "terway.dev/terway/api/calico/v3"
	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/apiserver"
	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/cli/logs"
	"terway.dev/terway/internal/cli/version"
	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/cloud/alibaba"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/controller/admit"
	"terway.dev/terway/internal/controller/eniconfig"
	"terway.dev/terway/internal/controller/loadbalancer"
	"terway.dev/terway/internal/controller/nodeinfo"
	"terway.dev/terway/internal/controller/nodenetwork"
	"terway.dev/terway/internal/controller/podlimits"
	"terway.dev/terway/internal/controller/podroute"
	"terway.dev/terway/internal/controller/policyhub"
	"terway.dev/terway/internal/controller/tiers"
	"terway.dev/terway/internal/datapath/claims"
	lb "terway.dev/terway/internal/loadbalancer"
	"terway.dev/terway/internal/policy/compile"
	"terway.dev/terway/internal/policy/hub"
	"terway.dev/terway/internal/policy/translate"
	"terway.dev/terway/internal/scrape"
)

// leader is the Lease of the leading replica.
const leader = "terway-controller"

type flags struct {
	credentials                      string
	secretDir                        string
	role                             string
	roleARN, providerARN, tokenFile  string
	stsEndpoint, metadataEndpoint    string
	ecsEndpoint, vpcEndpoint         string
	slbEndpoint, nlbEndpoint         string
	network                          string
	namespace                        string
	metricsAddress, healthAddress    string
	webhookPort                      int
	policyPort                       int
	memory                           int64
	workers                          int
	routeQuota                       int
	sweep, orphanAge                 time.Duration
	goneDelay, patience              time.Duration
	leaseDuration, renew, retryLease time.Duration
	limits                           map[string]int
	log                              logs.Flags
}

func main() {
	var f flags
	cmd := &cobra.Command{
		Use:           "terway-controller",
		Short:         "Terway's controller: ENIs and addresses of all nodes",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), f) },
	}
	fl := cmd.Flags()
	f.toTheCloud(fl)
	fl.StringVar(&f.metricsAddress, "metrics-address", ":10363", "address of /metrics; off to serve none. On an address that only the node itself reaches it is plain HTTP, else TLS, with a token of a user whom Kubernetes allows to get /metrics")
	fl.StringVar(&f.healthAddress, "health-address", ":10364", "address of /healthz and /readyz")
	fl.IntVar(&f.webhookPort, "webhook-port", 0, "port of the admission webhook, by which pods request an exclusive ENI with the annotation "+claims.AnnotationExclusiveENI+", and get what load balancers need in namespaces with the label "+claims.LabelInjectGates+"="+claims.GatesEnabled+" or "+claims.GatesRequired+"; 0 turns it off")
	fl.IntVar(&f.policyPort, "policy-port", 0, "port of the policy hub, from which nodes get what network policies say; also makes the tiers default, kube-admin and kube-baseline of Calico's API projectcalico.org/v3, whose kinds the cluster has; 0 turns both off: policies are not read")
	fl.Int64Var(&f.memory, "memory", 0, "with --policy-port: bytes of memory that the container may have; near seven eighths of it garbage is collected more often (Go's GOMEMLIMIT, which has precedence); 0: unknown")
	fl.IntVar(&f.workers, "workers", 512, "how many nodes are reconciled at once; most of them wait for the cloud")
	fl.IntVar(&f.routeQuota, "route-quota", podroute.DefaultQuota, "Flannel: how many custom entries a route table may have, for warnings; the cloud enforces its own quota")
	fl.DurationVar(&f.sweep, "sweep-period", 2*time.Minute, "how often all ENIs are compared with the cloud")
	fl.DurationVar(&f.patience, "surplus-after", 5*time.Minute, "how long addresses above max_pool_size, and surplus free exclusive ENIs, stay on a node before they are given back, so that repeated bursts of pods need no calls to the cloud")
	fl.DurationVar(&f.orphanAge, "orphan-age", 5*time.Minute, "how long an ENI of the cluster that no node has is kept")
	fl.DurationVar(&f.goneDelay, "node-gone-delay", 5*time.Minute, "how long the ENIs of a node that is gone are kept while its instance runs and pods have their addresses; at least a minute, because Kubernetes deletes such pods only after a while")
	fl.DurationVar(&f.leaseDuration, "lease-duration", 8*time.Second, "leader election: how long a lease is valid; with the retry period shorter than pods wait before they end (annotation "+lb.AnnotationDrainSeconds+" of Services), so that load balancers send them nothing new although the leader has been killed")
	fl.DurationVar(&f.renew, "lease-renew-deadline", 6*time.Second, "leader election: how long the leader tries to renew")
	fl.DurationVar(&f.retryLease, "lease-retry-period", time.Second, "leader election: pause between attempts")
	cmd.AddCommand(logs.Command(), uninstallCommand())

	version.Add(cmd)
	if err := cmd.ExecuteContext(ctrl.SetupSignalHandler()); err != nil {
		fmt.Fprintln(os.Stderr, "terway-controller:", err)
		os.Exit(1)
	}
}

// toTheCloud registers the flags that say whose configuration is used, and how the cloud is reached.
func (f *flags) toTheCloud(fl *pflag.FlagSet) {
	fl.StringVar(&f.credentials, "credentials", "secret", "where the cloud credential comes from: secret, ecs-role or rrsa")
	fl.StringVar(&f.secretDir, "secret-dir", "/etc/terway/credentials", "secret: directory with the files access-key-id and access-key-secret")
	fl.StringVar(&f.role, "role", "", "ecs-role: the RAM role's name (default: from the metadata service)")
	fl.StringVar(&f.roleARN, "role-arn", os.Getenv("ALIBABA_CLOUD_ROLE_ARN"), "rrsa: ARN of the RAM role")
	fl.StringVar(&f.providerARN, "oidc-provider-arn", os.Getenv("ALIBABA_CLOUD_OIDC_PROVIDER_ARN"), "rrsa: ARN of the OIDC provider")
	fl.StringVar(&f.tokenFile, "oidc-token-file", os.Getenv("ALIBABA_CLOUD_OIDC_TOKEN_FILE"), "rrsa: the service account's token")
	fl.StringVar(&f.stsEndpoint, "sts-endpoint", "", "rrsa: STS endpoint (default: the region's)")
	fl.StringVar(&f.metadataEndpoint, "metadata-endpoint", "", "ecs-role: metadata service (default: http://100.100.100.200)")
	fl.StringVar(&f.ecsEndpoint, "ecs-endpoint", os.Getenv("ECS_ENDPOINT"), "ECS endpoint, host:port or URL (default: the region's)")
	fl.StringVar(&f.vpcEndpoint, "vpc-endpoint", os.Getenv("VPC_ENDPOINT"), "VPC endpoint, host:port or URL (default: the region's)")
	fl.StringVar(&f.slbEndpoint, "slb-endpoint", os.Getenv("SLB_ENDPOINT"), "endpoint of SLB (CLB), host:port or URL (default: the region's)")
	fl.StringVar(&f.nlbEndpoint, "nlb-endpoint", os.Getenv("NLB_ENDPOINT"), "endpoint of NLB, host:port or URL (default: the region's)")
	fl.StringVar(&f.network, "endpoint-network", "vpc", "which of the region's endpoints: vpc or public")
	fl.StringVar(&f.namespace, "namespace", os.Getenv("POD_NAMESPACE"), "namespace of the ConfigMap eni-config and of the leader election lease (default: $POD_NAMESPACE)")
	fl.StringToIntVar(&f.limits, "cloud-limits", nil, "ACTION=N,…: the most calls a minute of an action of the cloud's API, instead of the default (docs/configuration.md, rate limits)")
	f.log.Register(fl)
}

func run(ctx context.Context, f flags) error {
	log, err := f.log.Start(ctx, os.Stderr)
	if err != nil {
		return err
	}
	ctrl.SetLogger(logr.FromSlogHandler(log.Handler()))

	if f.namespace == "" {
		return errors.New("--namespace is empty: want the namespace of the ConfigMap eni-config")
	}
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		return err
	}
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return err
	}
	if err := v3.AddToScheme(scheme); err != nil {
		return err
	}
	if err := cnpv1.Install(scheme); err != nil {
		return err
	}
	if err := apiserver.NoticeDeadConnections(); err != nil {
		return err
	}
	cluster, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("no kubeconfig and no service account: %w", err)
	}
	cluster.QPS = -1 // the API server's latency limits the rate, see requestsAtOnce
	// The controller reads no other ConfigMap, and has no permission to.
	cached := map[client.Object]cache.ByObject{&corev1.ConfigMap{}: {
		Namespaces: map[string]cache.Config{f.namespace: {FieldSelector: fields.OneTermEqualSelector("metadata.name", config.ConfigMapName)}},
	}}
	// Only the agents' Leases.
	agents, err := labels.NewRequirement(claims.LabelLease, selection.Exists, nil)
	if err != nil {
		return err
	}
	cached[&coordinationv1.Lease{}] = cache.ByObject{
		Namespaces: map[string]cache.Config{f.namespace: {LabelSelector: labels.NewSelector().Add(*agents)}},
	}
	cached[&corev1.Pod{}] = loadbalancer.CachedPods()
	options := ctrl.Options{
		Scheme:                  scheme,
		Cache:                   cache.Options{ByObject: cached},
		Metrics:                 metricsOptions(f.metricsAddress, log),
		HealthProbeBindAddress:  "0", // serveHealth: it is needed before the manager runs
		LeaderElection:          true,
		LeaderElectionID:        leader,
		LeaderElectionNamespace: f.namespace,
		LeaderElectionConfig:    cluster, // the Lease waits for no other request
		// The process exits right after: a successor need not wait for the lease to expire.
		LeaderElectionReleaseOnCancel: true,
		LeaseDuration:                 &f.leaseDuration,
		RenewDeadline:                 &f.renew,
		RetryPeriod:                   &f.retryLease,
	}
	var store *config.Store
	current := func() *config.Config { return store.Get() } // for what runs after the configuration has been read
	hook, err := webhook(f, &options, current, log)
	if err != nil {
		return err
	}
	mgr, err := ctrl.NewManager(bounded(cluster), options)
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	metrics.Registry.MustRegister(version.Metric("terway-controller"))
	events := mgr.GetEventRecorder("terway-controller")
	watcher := eniconfig.New(eniconfig.Options{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Namespace: f.namespace, Events: events, Log: log, Metrics: metrics.Registry,
		Leads: func() bool { return closed(mgr.Elected()) }, Retry: 2 * time.Second,
	})
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ready := []func(*http.Request) error{watcher.Ready}
	if hook != nil {
		ready = append(ready, hook.Ready)
	}
	policies, err := policyHub(mgr, f, current, log)
	if err != nil {
		return err
	}
	if policies != nil {
		ready = append(ready, policies.Ready)
	}
	if err := serveHealth(ctx, f.healthAddress, ready, cancel); err != nil {
		return err
	}
	// Before the leader election: a replica without a configuration must not lead in place of one
	// that has it.
	store, err = watcher.First(ctx)
	if errors.Is(err, context.Canceled) {
		return nil // stopped by a signal
	}
	if err != nil {
		return err
	}
	cfg := store.Get()
	creds, err := credentials(f, cfg.Region, log)
	if err != nil {
		return err
	}
	api, err := alibaba.New(alibaba.Config{
		Region: cfg.Region, ECSEndpoint: f.ecsEndpoint, VPCEndpoint: f.vpcEndpoint, SLBEndpoint: f.slbEndpoint, NLBEndpoint: f.nlbEndpoint, Network: f.network,
		Credentials: creds, Limits: f.limits, Attempts: attempts(cfg.Network), Metrics: metrics.Registry, Log: log,
	})
	if err != nil {
		return err
	}
	if err := watcher.SetupWithManager(mgr); err != nil {
		return err
	}
	if hook != nil {
		if err := hook.SetupWithManager(mgr); err != nil {
			return err
		}
	}
	if err := network(ctx, mgr, f, store, api, policies, log); err != nil {
		return err
	}
	if policies != nil {
		if cfg.Network == claims.NetworkFlannel {
			return fmt.Errorf("--policy-port %d: not with network: flannel, whose pods Terway does not wire", f.policyPort)
		}
		if err := tiers.CheckOwner(ctx, mgr.GetAPIReader()); err != nil {
			return fmt.Errorf("--policy-port %d: %w", f.policyPort, err)
		}
		if err := mgr.Add(&tiers.Keeper{Live: mgr.GetAPIReader(), Client: mgr.GetClient(), Log: log, Period: time.Minute, Retry: 2 * time.Second}); err != nil {
			return err
		}
		if err := policies.SetupWithManager(mgr); err != nil {
			return err
		}
		store.OnChange(policies.SettingsChanged)
	}
	log.Info("terway-controller is running", "cluster", cfg.ClusterID, "region", cfg.Region)
	if err := mgr.Start(ctx); err != nil {
		return err
	}
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// metricsOptions are those of /metrics on an address.
func metricsOptions(address string, log *slog.Logger) metricsserver.Options {
	if address == "off" {
		return metricsserver.Options{BindAddress: "0"} // controller-runtime's word for it
	}
	o := metricsserver.Options{BindAddress: address}
	if scrape.Local(address) {
		return o
	}
	o.SecureServing = true
	o.FilterProvider = func(cfg *rest.Config, _ *http.Client) (metricsserver.Filter, error) {
		guard, err := scrape.New(cfg, log)
		if err != nil {
			return nil, err
		}
		return func(_ logr.Logger, next http.Handler) (http.Handler, error) { return guard.Handler(next), nil }, nil
	}
	return o
}

// attempts is how often a call is made at most. A node's calls are repeated by its next reconcile,
// with the same token, so no worker waits in the pauses between them; with Flannel the client
// repeats.
func attempts(network string) int {
	if network == claims.NetworkFlannel {
		return 0 // the client's default
	}
	return 3
}

// webhook adds the admission webhook, which asks for the configuration when it runs, to the manager's options; nil if it
// is turned off.
func webhook(f flags, o *ctrl.Options, cfg func() *config.Config, log *slog.Logger) (*admit.Webhook, error) {
	switch {
	case f.webhookPort == 0:
		return nil, nil
	case f.webhookPort < 0 || f.webhookPort > 65535:
		return nil, fmt.Errorf("--webhook-port %d: want a port, 1 to 65535, or 0 for none", f.webhookPort)
	}
	hook := admit.New(admit.Options{
		Namespace: f.namespace, Port: f.webhookPort, Log: log, Now: time.Now,
		LoadBalancers: func() lb.Settings { return loadbalancer.Settings(cfg()) },
	})
	maps.Copy(o.Cache.ByObject, hook.Cached())
	return hook, nil
}

// policyHub makes the policy hub, which asks for the configuration when it runs; nil if it is turned off.
func policyHub(mgr ctrl.Manager, f flags, cfg func() *config.Config, log *slog.Logger) (*policyhub.Server, error) {
	switch {
	case f.policyPort == 0:
		return nil, nil
	case f.policyPort < 0 || f.policyPort > 65535:
		return nil, fmt.Errorf("--policy-port %d: want a port, 1 to 65535, or 0 for none", f.policyPort)
	case f.memory < 0:
		return nil, fmt.Errorf("--memory %d: want a number of bytes, or 0 if it is unknown", f.memory)
	}
	objects, err := cache.New(mgr.GetConfig(), policyhub.CacheOptions(cache.Options{Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(), HTTPClient: mgr.GetHTTPClient()}))
	if err != nil {
		return nil, fmt.Errorf("policy hub: %w", err)
	}
	replica, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("policy hub: %w", err)
	}
	hub.SaveMemory(f.memory)
	return policyhub.New(policyhub.Options{
		Namespace: f.namespace, Address: fmt.Sprintf(":%d", f.policyPort), Replica: replica, Cache: objects, Budget: compile.DefaultBudget,
		Live: mgr.GetAPIReader(), Client: mgr.GetClient(), Events: mgr.GetEventRecorder("terway-controller"), Metrics: metrics.Registry,
		Settings: func() translate.Options {
			return translate.Options{AllowLoadBalancerProbes: cfg().PolicyAllowLoadBalancerProbes}
		},
		Log: log, Clock: clock.RealClock{}, Retry: 2 * time.Second, Look: 30 * time.Second,
	}), nil
}

func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// network registers the controllers for the pods' network: ENIs with addresses, or routes to the
// nodes' pod CIDRs; and those of load balancers. policies is nil if policy is off.
func network(ctx context.Context, mgr ctrl.Manager, f flags, store *config.Store, api *alibaba.Client, policies *policyhub.Server, log *slog.Logger) error {
	events := mgr.GetEventRecorder("terway-controller")
	balancers := loadbalancer.Options{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), CLB: api.CLB(), NLB: api.NLB(), Config: store,
		VPC:    func(ctx context.Context) (string, error) { return vpcOfNodes(ctx, mgr.GetClient(), api) },
		Events: events, Log: log, Now: time.Now, Metrics: metrics.Registry,
		Join: 500 * time.Millisecond, Poll: time.Second, Retry: time.Second, Park: 30 * time.Second, Resync: 5 * time.Minute,
	}
	if store.Get().Network == claims.NetworkFlannel {
		if f.routeQuota < 1 {
			return fmt.Errorf("--route-quota %d: want the number of custom entries that a route table may have, %d by default", f.routeQuota, podroute.DefaultQuota)
		}
		if err := loadbalancer.New(balancers).SetupWithManager(ctx, mgr); err != nil {
			return err
		}
		return podroute.New(podroute.Options{
			Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Cloud: api, Config: store, Events: events,
			Subject: &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: f.namespace, Name: config.ConfigMapName}},
			Log:     log, Now: time.Now, Random: rand.Float64, Metrics: metrics.Registry, Quota: f.routeQuota,
			Join: time.Second, Poll: time.Second, Retry: 2 * time.Second, Park: time.Minute, Settle: 10 * time.Second, Resync: 5 * time.Minute,
		}).SetupWithManager(mgr)
	}
	if f.goneDelay < time.Minute {
		return fmt.Errorf("--node-gone-delay %s: want a minute or more; Kubernetes deletes the pods of a node that is gone after 40 s or later", f.goneDelay)
	}
	pods, err := client.NewWithWatch(mgr.GetConfig(), client.Options{HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper()})
	if err != nil {
		return fmt.Errorf("watch pods' metadata: %w", err)
	}
	limits := &podlimits.Watcher{Client: pods, Log: log, Retry: 2 * time.Second}
	// Each of the two asks the other, when both run.
	var r *nodenetwork.Reconciler
	balancers.ENI = func(ctx context.Context, a netip.Addr) string { return r.ENIOf(ctx, a) }
	balancers.HeldChanged = func(ctx context.Context, addresses []netip.Addr) { r.HeldChanged(ctx, addresses) }
	lbs := loadbalancer.New(balancers)
	r = nodenetwork.New(nodenetwork.Options{
		PodLimits: limits, Bandwidth: bandwidthOf, Held: lbs.Held,
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Cloud: api, Config: store,
		Events: events, Log: log, Now: time.Now, NewToken: uuid.NewString,
		Catalogue: fromCatalogue, Metrics: metrics.Registry, Leads: func() bool { return closed(mgr.Elected()) },
		Poll: time.Second, Retry: 5 * time.Second, Park: time.Minute, Settle: 10 * time.Second, Join: 50 * time.Millisecond,
		GoneDelay: f.goneDelay, Patience: f.patience,
	})
	if err := r.SetupWithManager(mgr, f.workers); err != nil {
		return err
	}
	if err := lbs.SetupWithManager(ctx, mgr); err != nil {
		return err
	}
	gates := loadbalancer.GatesOptions{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Settings: func() lb.Settings { return loadbalancer.Settings(store.Get()) },
		Members: lbs.Members, Events: events, Metrics: metrics.Registry, Log: log, Now: time.Now, Poll: time.Second,
	}
	if policies != nil {
		gates.DeniesProbes = policies.DeniesProbes
	}
	if err := loadbalancer.NewGates(gates).SetupWithManager(mgr, 64); err != nil {
		return err
	}
	limits.Changed = r.PodLimitsChanged
	if err := mgr.Add(limits); err != nil {
		return err
	}
	if err := mgr.Add(&nodenetwork.Agents{Reconciler: r, Namespace: f.namespace, Leader: leader, Period: 5 * time.Second}); err != nil {
		return err
	}
	return mgr.Add(&nodenetwork.Sweeper{Reconciler: r, Period: f.sweep, Age: f.orphanAge})
}

// vpcOfNodes returns the VPC in which the cluster's instances are.
func vpcOfNodes(ctx context.Context, from client.Reader, api *alibaba.Client) (string, error) {
	var nodes corev1.NodeList
	if err := from.List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
		return "", fmt.Errorf("list nodes: %w", err)
	}
	for i := range nodes.Items {
		id, err := nodeinfo.InstanceID(nodes.Items[i].Spec.ProviderID)
		if err != nil || nodeinfo.Ignored(&nodes.Items[i]) {
			continue
		}
		found, err := api.DescribeInstances(ctx, []string{id})
		if err != nil {
			return "", err
		}
		if len(found) == 1 && found[0].VPCID != "" {
			return found[0].VPCID, nil
		}
	}
	return "", errors.New("the cluster's VPC is not known: no node has a spec.providerID REGION.INSTANCE-ID of an instance that exists")
}

func credentials(f flags, region string, log *slog.Logger) (alibaba.CredentialSource, error) {
	switch f.credentials {
	case "secret":
		return alibaba.FileCredentials(filepath.Join(f.secretDir, "access-key-id"), filepath.Join(f.secretDir, "access-key-secret")), nil
	case "ecs-role":
		return alibaba.ECSRoleCredentials(alibaba.ECSRoleConfig{Role: f.role, Endpoint: f.metadataEndpoint, Log: log})
	case "rrsa":
		return alibaba.RRSACredentials(alibaba.RRSAConfig{
			TokenFile: f.tokenFile, RoleARN: f.roleARN, ProviderARN: f.providerARN,
			Endpoint: f.stsEndpoint, Region: region, Network: f.network, Log: log,
		})
	}
	return nil, fmt.Errorf("--credentials %q: want secret, ecs-role or rrsa", f.credentials)
}

// bandwidthOf returns the bandwidth of an instance type, for a short time if it may have more then,
// as known when this program was built.
func bandwidthOf(name string) (bits uint64, known bool) {
	t, ok := catalog.Lookup(name)
	most := max(t.BandwidthBase, t.BandwidthBurst)
	return uint64(most * 1e9), ok && most > 0
}

// fromCatalogue returns the limits that were known when this program was built.
func fromCatalogue(name string) (cloud.InstanceType, bool) {
	t, ok := catalog.Lookup(name)
	if !ok || !t.ENIs.Known || !t.IPv4PerENI.Known {
		return cloud.InstanceType{}, false
	}
	return cloud.InstanceType{Name: name, ENIs: t.ENIs.N, IPv4PerENI: t.IPv4PerENI.N, IPv6PerENI: t.IPv6PerENI.N}, true
}
