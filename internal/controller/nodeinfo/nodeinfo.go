// Package nodeinfo reads what the controllers need from a Node. It has no state and makes no calls.
package nodeinfo

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/datapath/claims"
)

// Ignored reports whether Terway must ignore a node. The chart's admission policy for nodes' own
// changes (ignore-labels) and the DaemonSets' affinity use the same labels.
func Ignored(n metav1.Object) bool {
	labels := n.GetLabels()
	return labels[claims.LabelIgnore] == "true" || labels[claims.LabelOtherIgnore] == "true" || labels[claims.LabelNodeType] == claims.VirtualNode
}

// InstanceID returns the ECS instance in a node's providerID: "cn-hangzhou.i-…", with or without
// "alicloud://" in front.
func InstanceID(providerID string) (string, error) {
	_, id, ok := strings.Cut(strings.TrimPrefix(providerID, "alicloud://"), ".")
	if !ok || !strings.HasPrefix(id, "i-") || strings.ContainsAny(id, "./ ") {
		return "", fmt.Errorf("providerID %q: want region.instance, for example cn-hangzhou.i-bp1a2b3c", providerID)
	}
	return id, nil
}
