// Package instruments observes a running lab's network and sends traffic through it: pods and
// Deployments, packet captures and device counters, continuous and measured traffic, and what
// cluster, agents, controller, cloud and kernel report about the nodes' addresses.
//
// It owns only what its caller requested: it creates pods in Cluster.Namespace, which the
// caller makes and empties. It must never judge: checks and comparisons do.
package instruments

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/internal/lab"
)

// Cluster is a running lab with its clients.
type Cluster struct {
	Lab    *lab.State
	Client kubernetes.Interface
	// Objects reads and writes the product's objects too.
	Objects client.Client
	// Namespace is the namespace for pods.
	Namespace string
	// Runs is the datapath of each node of a lab with Terway.
	Runs []NodeDatapath
}

// Connect connects to the cluster of a running lab.
func Connect(s *lab.State) (*Cluster, error) {
	objects, err := s.Options.Objects()
	if err != nil {
		return nil, err
	}
	clientset, err := s.Options.Client()
	if err != nil {
		return nil, err
	}
	return &Cluster{Lab: s, Client: clientset, Objects: objects}, nil
}

// MakeNamespace makes a namespace for the cluster's pods and waits until pods can be created in
// it.
func (c *Cluster) MakeNamespace(ctx context.Context, meta metav1.ObjectMeta) error {
	ns, err := c.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: meta}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("make namespace %s%s: %w", meta.Name, meta.GenerateName, err)
	}
	c.Namespace = ns.Name
	// Pods are rejected until the namespace has its service account.
	return c.Poll(ctx, "the service account of "+c.Namespace, func() (bool, error) {
		_, err := c.Client.CoreV1().ServiceAccounts(c.Namespace).Get(ctx, "default", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return err == nil, err
	})
}

// Empty deletes a namespace and waits for its pods to end, but not for the namespace, which
// takes five seconds more.
func (c *Cluster) Empty(ctx context.Context, namespace string) error {
	now := metav1.DeleteOptions{GracePeriodSeconds: new(int64)}
	err := errors.Join(
		c.Client.AppsV1().Deployments(namespace).DeleteCollection(ctx, now, metav1.ListOptions{}),
		c.Client.AppsV1().ReplicaSets(namespace).DeleteCollection(ctx, now, metav1.ListOptions{}),
		c.Client.CoreV1().Pods(namespace).DeleteCollection(ctx, now, metav1.ListOptions{}))
	if err != nil {
		return fmt.Errorf("empty namespace %s: %w", namespace, err)
	}
	if err := c.Poll(ctx, "the pods of "+namespace+" to be gone", func() (bool, error) {
		pods, err := c.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{Limit: 1})
		return err == nil && len(pods.Items) == 0, err
	}); err != nil {
		return err
	}
	err = c.Client.CoreV1().Namespaces().Delete(ctx, namespace, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete namespace %s: %w", namespace, err)
	}
	return nil
}

// Poll waits until f returns true; what describes it in the error.
func (c *Cluster) Poll(ctx context.Context, what string, f func() (bool, error)) error {
	return pollEvery(ctx, 100*time.Millisecond, what, f)
}

// PollCloud is Poll with a longer interval, for functions that call the cloud: an account's
// calls are limited.
func (c *Cluster) PollCloud(ctx context.Context, what string, f func() (bool, error)) error {
	return pollEvery(ctx, 500*time.Millisecond, what, f)
}

func pollEvery(ctx context.Context, every time.Duration, what string, f func() (bool, error)) error {
	if err := lab.Poll(ctx, every, f); err != nil {
		return fmt.Errorf("wait for %s: %w", what, err)
	}
	return nil
}
