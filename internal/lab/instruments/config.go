package instruments

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"terway.dev/terway/internal/config"
)

// EditConfig changes the cluster's configuration, and retries if it was changed meanwhile.
func (c *Cluster) EditConfig(ctx context.Context, edit func(*corev1.ConfigMap) error) error {
	maps := c.Client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		m, err := maps.Get(ctx, config.ConfigMapName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if err := edit(m); err != nil {
			return err
		}
		_, err = maps.Update(ctx, m, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("change ConfigMap %s/%s: %w", metav1.NamespaceSystem, config.ConfigMapName, err)
	}
	return nil
}
