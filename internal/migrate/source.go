package migrate

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"terway.dev/terway/internal/config"
)

// Source is a network that a cluster can come from.
type Source string

const (
	// Flannel is upstream's, also with Calico's policies (Canal).
	Flannel Source = "flannel"
	// ExistingTerway is github.com/AliyunContainerService/terway.
	ExistingTerway Source = "existing-terway"
)

// backendAlloc is Flannel's backend that leaves the way between nodes to the VPC's routes.
const backendAlloc = "alloc"

// existingSets are the names of the existing Terway's DaemonSets, in its chart and its former manifests.
var existingSets = []string{"terway", "terway-eni", "terway-eniip"}

// ConfigMaps are the names of ConfigMaps of old networks, in the namespace of their DaemonSets.
var ConfigMaps = []string{config.ConfigMapName, "kube-flannel-cfg", "canal-config"}

// oldNetwork is what Terway takes over from.
type oldNetwork struct {
	source Source
	sets   []appsv1.DaemonSet
	// files are its CNI configurations on a node: in /etc/cni/net.d the runtime takes the first by name, so
	// that one of them would go before Terway's.
	files []string
	// backend is Flannel's, "" if unknown.
	backend string
	// conversion is the existing Terway's configuration in this one's keys; unread says why it is nil.
	conversion *config.Conversion
	unread     string
}

// find finds the old network, and refuses two.
func find(o *Objects) (*oldNetwork, error) {
	var flannel, terway []appsv1.DaemonSet
	for _, d := range o.DaemonSets {
		switch {
		case runs(&d, "flanneld") && d.Spec.Template.Labels["app.kubernetes.io/name"] == "terway":
			return nil, fmt.Errorf("DaemonSet %s/%s is Flannel of Terway's own chart, and two releases of the chart cannot be in one cluster: put upstream's Flannel in its place first (docs/migrate.md says how)", d.Namespace, d.Name)
		case runs(&d, "flanneld"):
			flannel = append(flannel, d)
		case slices.Contains(existingSets, d.Name):
			terway = append(terway, d)
		}
	}
	switch {
	case len(flannel) > 0 && len(terway) > 0:
		return nil, fmt.Errorf("the cluster has two networks, DaemonSets %s/%s and %s/%s: delete the one that no node uses", flannel[0].Namespace, flannel[0].Name, terway[0].Namespace, terway[0].Name)
	case len(flannel) > 0:
		n := &oldNetwork{source: Flannel, sets: flannel, files: []string{"10-canal.conflist", "10-flannel.conf", "10-flannel.conflist"}}
		n.backend = n.backendOf(o)
		return n, nil
	case len(terway) > 0:
		n := &oldNetwork{source: ExistingTerway, sets: terway, files: []string{"10-terway.conf", "10-terway.conflist"}}
		n.convert(o)
		return n, nil
	}
	return nil, errors.New("the cluster has neither upstream's Flannel (a DaemonSet that runs flanneld) nor the existing Terway (a DaemonSet " +
		strings.Join(existingSets, ", ") + "): there is nothing that migrate could take over from")
}

// runs reports whether a container of a DaemonSet runs a program.
func runs(d *appsv1.DaemonSet, program string) bool {
	for _, c := range d.Spec.Template.Spec.Containers {
		if slices.ContainsFunc(append(slices.Clone(c.Command), c.Args...), func(word string) bool { return path.Base(word) == program }) {
			return true
		}
	}
	return false
}

// beside reports whether a ConfigMap is in a namespace of the old network: Terway's own has a name of the existing one's.
func (n *oldNetwork) beside(m *corev1.ConfigMap) bool {
	return slices.ContainsFunc(n.sets, func(d appsv1.DaemonSet) bool { return d.Namespace == m.Namespace })
}

// backendOf reads Flannel's net-conf.json.
func (n *oldNetwork) backendOf(o *Objects) string {
	for _, m := range o.ConfigMaps {
		if !n.beside(&m) {
			continue
		}
		var conf struct {
			Backend struct{ Type string }
		}
		if json.Unmarshal([]byte(m.Data["net-conf.json"]), &conf) == nil && conf.Backend.Type != "" {
			return conf.Backend.Type
		}
	}
	return ""
}

// convert reads the existing Terway's configuration.
func (n *oldNetwork) convert(o *Objects) {
	for _, m := range o.ConfigMaps {
		if m.Name != config.ConfigMapName || !n.beside(&m) {
			continue
		}
		data, err := json.Marshal(map[string]any{"kind": "ConfigMap", "data": m.Data})
		if err == nil {
			n.conversion, err = config.Convert(data, config.Given{})
		}
		if err != nil {
			n.unread = err.Error()
		}
	}
}

// policy reports whether the old network enforces policies.
func (n *oldNetwork) policy(o *Objects) bool {
	if n.source == ExistingTerway {
		return n.conversion == nil || n.conversion.Policy
	}
	return slices.ContainsFunc(o.DaemonSets, func(d appsv1.DaemonSet) bool {
		return runs(&d, "kube-router") || d.Name == "calico-node" || d.Name == "canal" || d.Name == "cilium"
	})
}
