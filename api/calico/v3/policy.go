package v3

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// NetworkPolicy is a policy for pods of its namespace.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,shortName={caliconetworkpolicy,caliconetworkpolicies}
// +kubebuilder:printcolumn:name="Tier",type=string,JSONPath=`.spec.tier`
// +kubebuilder:printcolumn:name="Order",type=number,JSONPath=`.spec.order`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type NetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec PolicySpec `json:"spec"`
	// Status of the object.
	// +optional
	Status Status `json:"status,omitzero"`
}

// NetworkPolicyList is a list of objects of kind NetworkPolicy.
//
// +kubebuilder:object:root=true
type NetworkPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NetworkPolicy `json:"items"`
}

// PolicySpec has the fields that all policies share.
//
// +kubebuilder:validation:XValidation:rule="!has(self.selector) || !self.selector.contains('global(')",message="global() is for namespaceSelector of a rule",reason=FieldValueInvalid
// +kubebuilder:validation:XValidation:rule="!has(self.serviceAccountSelector) || !self.serviceAccountSelector.contains('global(')",message="global() is for namespaceSelector of a rule",reason=FieldValueInvalid
type PolicySpec struct {
	// Tier is the tier that the policy is in.
	// +kubebuilder:default=default
	// +optional
	Tier string `json:"tier,omitempty"`
	// Order of the policy in its tier, the lowest first; without one it comes last. With equal
	// orders names decide.
	// +optional
	Order *float64 `json:"order,omitempty"`
	// Ingress rules, in the order in which they are tried.
	// +kubebuilder:validation:MaxItems=1024
	// +listType=atomic
	// +optional
	Ingress []Rule `json:"ingress,omitempty"`
	// Egress rules, in the order in which they are tried.
	// +kubebuilder:validation:MaxItems=1024
	// +listType=atomic
	// +optional
	Egress []Rule `json:"egress,omitempty"`
	// Selector selects pods: of the namespace if the policy has one; empty: all of them.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Selector string `json:"selector,omitempty"`
	// Types are the directions in which the policy selects its pods. Without any: Egress if there
	// are egress rules and no ingress rules, both if there are both, Ingress else.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=2
	// +listType=set
	// +optional
	Types []PolicyType `json:"types,omitempty"`
	// ServiceAccountSelector restricts the policy to pods whose service account has such labels.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	ServiceAccountSelector string `json:"serviceAccountSelector,omitempty"`
	// PerformanceHints change nothing about what is enforced.
	// +listType=set
	// +optional
	PerformanceHints []PerformanceHint `json:"performanceHints,omitempty"`
}

// GlobalNetworkPolicy is a policy for pods of all namespaces.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName={gnp,cgnp}
// +kubebuilder:printcolumn:name="Tier",type=string,JSONPath=`.spec.tier`
// +kubebuilder:printcolumn:name="Order",type=number,JSONPath=`.spec.order`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type GlobalNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec GlobalNetworkPolicySpec `json:"spec"`
	// Status of the object.
	// +optional
	Status Status `json:"status,omitzero"`
}

// GlobalNetworkPolicyList is a list of objects of kind GlobalNetworkPolicy.
//
// +kubebuilder:object:root=true
type GlobalNetworkPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []GlobalNetworkPolicy `json:"items"`
}

// GlobalNetworkPolicySpec is the spec of a GlobalNetworkPolicy.
//
// +kubebuilder:validation:XValidation:rule="!has(self.namespaceSelector) || !self.namespaceSelector.contains('global(')",message="global() is for namespaceSelector of a rule",reason=FieldValueInvalid
// +kubebuilder:validation:XValidation:rule="!((has(self.doNotTrack) && self.doNotTrack) && (has(self.preDNAT) && self.preDNAT))",message="preDNAT and doNotTrack exclude each other",reason=FieldValueForbidden
// +kubebuilder:validation:XValidation:rule="(!has(self.preDNAT) || !self.preDNAT) || !has(self.egress) || size(self.egress) == 0",message="a policy with preDNAT has no egress rules",reason=FieldValueForbidden
// +kubebuilder:validation:XValidation:rule="(!has(self.preDNAT) || !self.preDNAT) || !has(self.types) || !self.types.exists(t, t == 'Egress')",message="a policy with preDNAT is not of type Egress",reason=FieldValueForbidden
// +kubebuilder:validation:XValidation:rule="(has(self.applyOnForward) && self.applyOnForward) || ((!has(self.doNotTrack) || !self.doNotTrack) && (!has(self.preDNAT) || !self.preDNAT))",message="preDNAT and doNotTrack need applyOnForward",reason=FieldValueInvalid
type GlobalNetworkPolicySpec struct {
	PolicySpec `json:",inline"`

	// NamespaceSelector restricts the policy to pods of namespaces with such labels.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	NamespaceSelector string `json:"namespaceSelector,omitempty"`
	// DoNotTrack judges packets before connections are tracked.
	// +optional
	DoNotTrack bool `json:"doNotTrack,omitempty"`
	// PreDNAT judges packets before destinations are translated.
	// +optional
	PreDNAT bool `json:"preDNAT,omitempty"`
	// ApplyOnForward judges what a host endpoint forwards, too.
	// +optional
	ApplyOnForward bool `json:"applyOnForward,omitempty"`
}

// PerformanceHint is a hint to Calico's own engine.
//
// +kubebuilder:validation:Enum=AssumeNeededOnEveryNode
type PerformanceHint string

// Status of an object.
type Status struct {
	// Conditions of the object. Programmed: it is enforced as written; otherwise the message
	// says what is not.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}
