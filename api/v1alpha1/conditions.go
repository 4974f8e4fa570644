package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// ControllerConditions returns the controller's conditions of the node. A controller of the previous
// version writes them to the spec, and the current one clears them there: if the spec has
// conditions, the previous version wrote last, and those in the status are older.
func (nn *NodeNetwork) ControllerConditions() []metav1.Condition {
	if len(nn.Spec.Conditions) > 0 {
		return nn.Spec.Conditions
	}
	return nn.Status.ControllerConditions
}
