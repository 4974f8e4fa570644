package v3

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// ClusterInformation, with the name "default", is what calicoctl asks about a cluster.
// Without an object of it calicoctl does not compare its version with the cluster's.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=clusterinformations
type ClusterInformation struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec ClusterInformationSpec `json:"spec"`
}

// ClusterInformationList is a list of objects of kind ClusterInformation.
//
// +kubebuilder:object:root=true
type ClusterInformationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ClusterInformation `json:"items"`
}

// ClusterInformationSpec is the spec of a ClusterInformation.
type ClusterInformationSpec struct {
	// ClusterGUID identifies the cluster.
	// +optional
	ClusterGUID string `json:"clusterGUID,omitempty"`
	// ClusterType lists the software that the cluster runs.
	// +optional
	ClusterType string `json:"clusterType,omitempty"`
	// CalicoVersion is the version of Calico in the cluster.
	// +optional
	CalicoVersion string `json:"calicoVersion,omitempty"`
	// DatastoreReady is false while a client should wait.
	// +optional
	DatastoreReady *bool `json:"datastoreReady,omitempty"`
	// Variant of Calico.
	// +optional
	Variant string `json:"variant,omitempty"`
}
