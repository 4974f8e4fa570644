package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// ControllerConditions are what the controller says of the node. A controller of the former
// version says it in the spec, and this one clears it there: where the spec has conditions,
// the former version was the last to write, and what the status has is older.
func (nn *NodeNetwork) ControllerConditions() []metav1.Condition {
	if len(nn.Spec.Conditions) > 0 {
		return nn.Spec.Conditions
	}
	return nn.Status.ControllerConditions
}
