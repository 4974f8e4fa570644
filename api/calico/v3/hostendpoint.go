package v3

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// HostEndpoint is an interface of a node.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName={hep,heps}
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.spec.node`
// +kubebuilder:printcolumn:name="Interface",type=string,JSONPath=`.spec.interfaceName`
type HostEndpoint struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec HostEndpointSpec `json:"spec"`
}

// HostEndpointList is a list of objects of kind HostEndpoint.
//
// +kubebuilder:object:root=true
type HostEndpointList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []HostEndpoint `json:"items"`
}

// HostEndpointSpec is the spec of a HostEndpoint.
//
// +kubebuilder:validation:XValidation:rule="has(self.node) && size(self.node) > 0",message="node is required",reason=FieldValueInvalid
// +kubebuilder:validation:XValidation:rule="(has(self.interfaceName) && size(self.interfaceName) > 0) || (has(self.expectedIPs) && size(self.expectedIPs) > 0)",message="interfaceName or expectedIPs is required",reason=FieldValueInvalid
type HostEndpointSpec struct {
	// Node is the name of the node.
	// +optional
	Node string `json:"node,omitempty"`
	// InterfaceName is the interface's, or "*" for all.
	// +optional
	InterfaceName string `json:"interfaceName,omitempty"`
	// ExpectedIPs are the addresses of the interface.
	// +listType=set
	// +optional
	ExpectedIPs []string `json:"expectedIPs,omitempty"`
	// Profiles are names of profiles that apply after the policies.
	// +listType=set
	// +optional
	Profiles []string `json:"profiles,omitempty"`
	// Ports that have names.
	// +listType=atomic
	// +optional
	Ports []EndpointPort `json:"ports,omitempty"`
}

// EndpointPort is a port that has a name.
type EndpointPort struct {
	// Name of the port.
	Name string `json:"name"`
	// Protocol of the port, as in rules.
	Protocol intstr.IntOrString `json:"protocol"`
	// Port is its number.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`
}
