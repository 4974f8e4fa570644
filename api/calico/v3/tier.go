package v3

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Tier is a group of policies that are tried together, before the next tier.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster
// +kubebuilder:validation:XValidation:rule="self.metadata.name != 'default' || (has(self.spec.order) && self.spec.order == 1000000.0)",message="tier default has order 1000000",reason=FieldValueInvalid
// +kubebuilder:validation:XValidation:rule="self.metadata.name != 'default' || (has(self.spec.defaultAction) && self.spec.defaultAction == 'Deny')",message="tier default has defaultAction Deny",reason=FieldValueInvalid
// +kubebuilder:validation:XValidation:rule="self.metadata.name != 'kube-admin' || (has(self.spec.order) && self.spec.order == 1000.0)",message="tier kube-admin has order 1000",reason=FieldValueInvalid
// +kubebuilder:validation:XValidation:rule="self.metadata.name != 'kube-admin' || (has(self.spec.defaultAction) && self.spec.defaultAction == 'Pass')",message="tier kube-admin has defaultAction Pass",reason=FieldValueInvalid
// +kubebuilder:validation:XValidation:rule="self.metadata.name != 'kube-baseline' || (has(self.spec.order) && self.spec.order == 10000000.0)",message="tier kube-baseline has order 10000000",reason=FieldValueInvalid
// +kubebuilder:validation:XValidation:rule="self.metadata.name != 'kube-baseline' || (has(self.spec.defaultAction) && self.spec.defaultAction == 'Pass')",message="tier kube-baseline has defaultAction Pass",reason=FieldValueInvalid
// +kubebuilder:printcolumn:name="Order",type=number,JSONPath=`.spec.order`
// +kubebuilder:printcolumn:name="DefaultAction",type=string,JSONPath=`.spec.defaultAction`
type Tier struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec TierSpec `json:"spec"`
	// Status of the object.
	// +optional
	Status Status `json:"status,omitzero"`
}

// TierList is a list of objects of kind Tier.
//
// +kubebuilder:object:root=true
type TierList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Tier `json:"items"`
}

// TierSpec is the spec of a Tier.
type TierSpec struct {
	// Order of the tier, the lowest first; without one it comes last. With equal orders names
	// decide.
	// +optional
	Order *float64 `json:"order,omitempty"`
	// DefaultAction applies to connections of pods that a policy of the tier selects, if no
	// rule of the tier decides: Deny, or Pass to the next tier.
	// +kubebuilder:default=Deny
	// +optional
	DefaultAction *DefaultAction `json:"defaultAction,omitempty"`
}

// DefaultAction applies at the end of a tier: Deny, or Pass.
//
// +kubebuilder:validation:Enum=Deny;Pass
type DefaultAction string

// The default actions.
const (
	DefaultDeny DefaultAction = "Deny"
	DefaultPass DefaultAction = "Pass"
)
