package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cloud/alibaba"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/controller/uninstall"
	"terway.dev/terway/internal/datapath/claims"
)

// The replicas' defaults: the Lease is theirs.
const (
	uninstallLease = 8 * time.Second
	uninstallRenew = 6 * time.Second
	uninstallRetry = time.Second
)

// uninstallCommand takes Terway off the cluster, before the chart is deleted. It is here and not in terwayctl, because it needs the
// controller's credential, endpoints and rate limits, and must act alone in the controller's place.
func uninstallCommand() *cobra.Command {
	var f flags
	o := uninstall.Options{Sleep: sleep, Poll: 2 * time.Second, Settle: 10 * time.Second, Grace: 30 * time.Second}
	var timeout time.Duration
	var job string
	keep := false
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Clean all nodes, give back all ENIs (with Flannel the route entries) and remove Terway's marks from the cluster, if no pod uses the network",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if timeout <= 0 {
				return fmt.Errorf("--timeout %s: want more than 0", timeout)
			}
			if o.AtOnce < 1 {
				return fmt.Errorf("--at-once %d: want 1 or more", o.AtOnce)
			}
			ctx, cancel := context.WithTimeoutCause(cmd.Context(), timeout, fmt.Errorf("not done within %s (--timeout)", timeout))
			defer cancel()
			return runUninstall(ctx, f, o, keep, job, timeout)
		},
	}
	f.toTheCloud(cmd.Flags())
	cmd.Flags().BoolVar(&o.Force, "force", false, "cut off pods that still use the network, pass over nodes that cannot be cleaned, and leave load balancers of Services in the cloud")
	cmd.Flags().BoolVar(&keep, "without-cloud", false, "leave what Terway has in the cloud, the ENIs or with Flannel the route entries, and name it: where there is no credential any more; the other flags of the cloud are not used then")
	cmd.Flags().BoolVar(&o.Kinds, "kinds", false, "delete the CustomResourceDefinition of NodeNetworks too")
	cmd.Flags().IntVar(&o.AtOnce, "at-once", 50, "how many nodes are cleaned at once")
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Minute, "how long all may take, from now or from the start of --job")
	cmd.Flags().StringVar(&job, "job", "", "`NAME` of the Job, in the same namespace, of which this is a pod")
	return cmd
}

func runUninstall(ctx context.Context, f flags, o uninstall.Options, keep bool, job string, timeout time.Duration) error {
	log, err := f.log.Start(ctx, os.Stderr)
	if err != nil {
		return err
	}
	ctrl.SetLogger(logr.FromSlogHandler(log.Handler()))
	if f.namespace == "" {
		return errors.New("--namespace is empty: want the namespace of the ConfigMap eni-config")
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return err
	}
	cluster, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("no kubeconfig and no service account: %w", err)
	}
	cluster.QPS = -1 // the API server's latency limits the rate
	c, err := client.New(bounded(cluster), client.Options{Scheme: scheme})
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	if job != "" {
		within, cancel, err := uninstall.Within(ctx, c, f.namespace, job, timeout, time.Now())
		if err != nil {
			return err
		}
		defer cancel()
		ctx = within
	}
	var stored corev1.ConfigMap
	if err := c.Get(ctx, client.ObjectKey{Namespace: f.namespace, Name: config.ConfigMapName}, &stored); err != nil {
		return fmt.Errorf("read ConfigMap %s/%s: %w", f.namespace, config.ConfigMapName, err)
	}
	cfg, err := config.FromConfigMap(stored.Data)
	if err != nil {
		return fmt.Errorf("ConfigMap %s/%s: %w", f.namespace, config.ConfigMapName, err)
	}
	flannel := uninstall.Flannel{PodCIDR: cfg.PodRange()}
	if !keep {
		creds, err := credentials(f, cfg.Region, log)
		if err != nil {
			return err
		}
		api, err := alibaba.New(alibaba.Config{
			Region: cfg.Region, ECSEndpoint: f.ecsEndpoint, VPCEndpoint: f.vpcEndpoint, SLBEndpoint: f.slbEndpoint, NLBEndpoint: f.nlbEndpoint, Network: f.network,
			Credentials: creds, Limits: f.limits, Log: log,
		})
		if err != nil {
			return err
		}
		o.Cloud, flannel.Cloud = api, api
	}
	leases, err := coordinationclient.NewForConfig(cluster) // waits for no other request
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	name, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("the name for the Lease: %w", err)
	}
	lock := &resourcelock.LeaseLock{
		LeaseMeta: metav1.ObjectMeta{Namespace: f.namespace, Name: leader}, Client: leases,
		LockConfig: resourcelock.ResourceLockConfig{Identity: name + "_uninstall"},
	}
	o.Client, o.Namespace, o.Cluster, o.Log = c, f.namespace, cfg.ClusterID, log
	o.Lead = func(ctx context.Context, do func(context.Context) error) error { return lead(ctx, lock, do) }
	if cfg.Network == claims.NetworkFlannel {
		err = uninstall.RunFlannel(ctx, o, flannel)
	} else {
		err = uninstall.Run(ctx, o)
	}
	if err != nil {
		return err
	}
	if err := leases.Leases(f.namespace).Delete(ctx, leader, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete Lease %s: %w", leader, err)
	}
	return nil
}

// lead calls do while this process has the Lease: no replica of the controller acts then, whoever starts one.
func lead(ctx context.Context, lock resourcelock.Interface, do func(context.Context) error) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	begun, result := make(chan struct{}), make(chan error, 1)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, LeaseDuration: uninstallLease, RenewDeadline: uninstallRenew, RetryPeriod: uninstallRetry, ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) {
				close(begun)
				result <- do(ctx)
				stop(nil)
			},
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("set up the Lease %s: %w", leader, err)
	}
	elector.Run(ctx)
	select {
	case <-begun:
		return <-result // also when another process took the Lease: then its context has ended
	default:
		return fmt.Errorf("wait for the Lease %s, which a replica of the controller has: %w", leader, context.Cause(ctx))
	}
}

// sleep waits, or returns why the context ended.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
