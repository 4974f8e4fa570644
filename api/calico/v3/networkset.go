package v3

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// NetworkSet is a list of networks, which selectors of rules select by its labels.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Namespaced,shortName=netsets
type NetworkSet struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec NetworkSetSpec `json:"spec"`
}

// NetworkSetList is a list of objects of kind NetworkSet.
//
// +kubebuilder:object:root=true
type NetworkSetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NetworkSet `json:"items"`
}

// NetworkSetSpec is the spec of a NetworkSet or GlobalNetworkSet.
type NetworkSetSpec struct {
	// Nets are networks in CIDR notation, or addresses.
	// +listType=set
	// +optional
	Nets []string `json:"nets,omitempty"`
}

// GlobalNetworkSet is a cluster-scoped NetworkSet.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster
type GlobalNetworkSet struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec NetworkSetSpec `json:"spec"`
}

// GlobalNetworkSetList is a list of objects of kind GlobalNetworkSet.
//
// +kubebuilder:object:root=true
type GlobalNetworkSetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []GlobalNetworkSet `json:"items"`
}
