package nodenetwork

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
)

// conditions are what the controller says of a node, in status.controllerConditions. What
// this process has said rules: the cache may lag behind it, and an agent of the former
// version, which replaces the whole status, takes it away with each report.
type conditions struct {
	// of is the object that they are of.
	of  types.UID
	now []metav1.Condition
	// written is what the API server took last, in the object's version.
	written []metav1.Condition
	version string
}

// recall takes up what was said of a node before this process came, or by a controller of
// the former version since.
func (w *work) recall() {
	c := &w.mem.conditions
	if c.of != w.nn.UID || len(w.nn.Spec.Conditions) > 0 {
		*c = conditions{of: w.nn.UID, now: slices.Clone(w.nn.ControllerConditions())}
	}
}

// condition sets a condition and reports whether it has turned False, or is False for
// another reason: then the user must hear of it.
func (w *work) condition(c metav1.Condition) (bad bool) {
	c.LastTransitionTime = metav1.NewTime(w.Now().Truncate(time.Second))
	was := w.said(c.Type)
	news := was == nil || was.Status != c.Status || was.Reason != c.Reason
	meta.SetStatusCondition(&w.mem.conditions.now, c)
	return news && c.Status == metav1.ConditionFalse
}

// said is a condition as it stands, nil if there is none of the type.
func (w *work) said(kind string) *metav1.Condition {
	return meta.FindStatusCondition(w.mem.conditions.now, kind)
}

// unsay removes a condition.
func (w *work) unsay(kind string) {
	meta.RemoveStatusCondition(&w.mem.conditions.now, kind)
}

// saveConditions writes the conditions if the API server has others. The patch names no other
// field of the status: the rest is the agent's.
func (w *work) saveConditions(ctx context.Context) error {
	c := &w.mem.conditions
	has := w.nn.Status.ControllerConditions
	if older, err := resourceversion.CompareResourceVersion(w.nn.ResourceVersion, c.version); err == nil && older < 0 {
		has = c.written // the cache lags behind our last write
	}
	if equality.Semantic.DeepEqual(has, c.now) {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"controllerConditions": c.now}})
	if err != nil {
		return fmt.Errorf("write the conditions of NodeNetwork %s: %w", w.name, err)
	}
	out := &v1alpha1.NodeNetwork{}
	out.Name = w.name
	// Strict: else an API server whose CRD does not know the field says yes and drops it.
	err = w.Client.Status().Patch(ctx, out, client.RawPatch(types.MergePatchType, patch), client.FieldValidation(metav1.FieldValidationStrict))
	switch {
	case err != nil && strings.Contains(err.Error(), `unknown field "status.controllerConditions"`):
		w.outdated.Do(func() { w.warnAll("CRDOutdated", "%s", crdOutdated) })
		return nil // this process knows what it has said, and goes on
	case err != nil:
		return fmt.Errorf("write the conditions of NodeNetwork %s: %w", w.name, err)
	}
	c.written, c.version = slices.Clone(c.now), out.ResourceVersion
	return nil
}
