package v3

import (
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// StagedAction is what enforcing a staged policy would do: put the policy, or delete the one
// of its name; Learn and Ignore do nothing.
//
// +kubebuilder:validation:Enum=Set;Delete;Learn;Ignore
type StagedAction string

// The actions.
const (
	StagedSet    StagedAction = "Set"
	StagedDelete StagedAction = "Delete"
	StagedLearn  StagedAction = "Learn"
	StagedIgnore StagedAction = "Ignore"
)

// StagedNetworkPolicy is a NetworkPolicy that is not enforced yet.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,shortName=snp
// +kubebuilder:printcolumn:name="Tier",type=string,JSONPath=`.spec.tier`
// +kubebuilder:printcolumn:name="Order",type=number,JSONPath=`.spec.order`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type StagedNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec StagedNetworkPolicySpec `json:"spec"`
	// Status is what is reported about the object.
	// +optional
	Status Status `json:"status,omitzero"`
}

// StagedNetworkPolicyList is a list of them.
//
// +kubebuilder:object:root=true
type StagedNetworkPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []StagedNetworkPolicy `json:"items"`
}

// StagedNetworkPolicySpec is what a StagedNetworkPolicy says.
//
// +kubebuilder:validation:XValidation:rule="!has(self.selector) || !self.selector.contains('global(')",message="global() is for namespaceSelector of a rule",reason=FieldValueInvalid
// +kubebuilder:validation:XValidation:rule="!has(self.serviceAccountSelector) || !self.serviceAccountSelector.contains('global(')",message="global() is for namespaceSelector of a rule",reason=FieldValueInvalid
type StagedNetworkPolicySpec struct {
	// StagedAction says what enforcing the policy would do.
	// +kubebuilder:default=Set
	// +optional
	StagedAction StagedAction `json:"stagedAction,omitempty"`
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
	// Selector selects the pods of the namespace; empty: all of them.
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

// StagedGlobalNetworkPolicy is a GlobalNetworkPolicy that is not enforced yet.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=sgnp
// +kubebuilder:printcolumn:name="Tier",type=string,JSONPath=`.spec.tier`
// +kubebuilder:printcolumn:name="Order",type=number,JSONPath=`.spec.order`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type StagedGlobalNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec StagedGlobalNetworkPolicySpec `json:"spec"`
	// Status is what is reported about the object.
	// +optional
	Status Status `json:"status,omitzero"`
}

// StagedGlobalNetworkPolicyList is a list of them.
//
// +kubebuilder:object:root=true
type StagedGlobalNetworkPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []StagedGlobalNetworkPolicy `json:"items"`
}

// StagedGlobalNetworkPolicySpec is what a StagedGlobalNetworkPolicy says.
//
// +kubebuilder:validation:XValidation:rule="!has(self.selector) || !self.selector.contains('global(')",message="global() is for namespaceSelector of a rule",reason=FieldValueInvalid
// +kubebuilder:validation:XValidation:rule="!has(self.serviceAccountSelector) || !self.serviceAccountSelector.contains('global(')",message="global() is for namespaceSelector of a rule",reason=FieldValueInvalid
// +kubebuilder:validation:XValidation:rule="!has(self.namespaceSelector) || !self.namespaceSelector.contains('global(')",message="global() is for namespaceSelector of a rule",reason=FieldValueInvalid
// +kubebuilder:validation:XValidation:rule="!((has(self.doNotTrack) && self.doNotTrack) && (has(self.preDNAT) && self.preDNAT))",message="preDNAT and doNotTrack exclude each other",reason=FieldValueForbidden
// +kubebuilder:validation:XValidation:rule="(!has(self.preDNAT) || !self.preDNAT) || !has(self.egress) || size(self.egress) == 0",message="a policy with preDNAT has no egress rules",reason=FieldValueForbidden
// +kubebuilder:validation:XValidation:rule="(!has(self.preDNAT) || !self.preDNAT) || !has(self.types) || !self.types.exists(t, t == 'Egress')",message="a policy with preDNAT is not of type Egress",reason=FieldValueForbidden
// +kubebuilder:validation:XValidation:rule="(has(self.applyOnForward) && self.applyOnForward) || ((!has(self.doNotTrack) || !self.doNotTrack) && (!has(self.preDNAT) || !self.preDNAT))",message="preDNAT and doNotTrack need applyOnForward",reason=FieldValueInvalid
type StagedGlobalNetworkPolicySpec struct {
	// StagedAction says what enforcing the policy would do.
	// +kubebuilder:default=Set
	// +optional
	StagedAction StagedAction `json:"stagedAction,omitempty"`
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
	// Selector selects the pods of all namespaces; empty: all of them.
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

// StagedKubernetesNetworkPolicy is a NetworkPolicy of Kubernetes that is not enforced yet.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,shortName=sknp
type StagedKubernetesNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec StagedKubernetesNetworkPolicySpec `json:"spec"`
	// Status is what is reported about the object.
	// +optional
	Status Status `json:"status,omitzero"`
}

// StagedKubernetesNetworkPolicyList is a list of them.
//
// +kubebuilder:object:root=true
type StagedKubernetesNetworkPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []StagedKubernetesNetworkPolicy `json:"items"`
}

// StagedKubernetesNetworkPolicySpec is what a NetworkPolicy of Kubernetes says.
type StagedKubernetesNetworkPolicySpec struct {
	// StagedAction says what enforcing the policy would do.
	// +kubebuilder:default=Set
	// +optional
	StagedAction StagedAction `json:"stagedAction,omitempty"`
	// PodSelector selects pods of the namespace; empty: all of them.
	// +optional
	PodSelector metav1.LabelSelector `json:"podSelector"`
	// Ingress lists what is allowed to the pods.
	// +listType=atomic
	// +optional
	Ingress []networkingv1.NetworkPolicyIngressRule `json:"ingress,omitempty"`
	// Egress lists what is allowed from the pods.
	// +listType=atomic
	// +optional
	Egress []networkingv1.NetworkPolicyEgressRule `json:"egress,omitempty"`
	// PolicyTypes are the directions in which the policy selects its pods. Without any: Ingress,
	// and Egress if there are egress rules.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=2
	// +listType=set
	// +optional
	PolicyTypes []networkingv1.PolicyType `json:"policyTypes,omitempty"`
}
