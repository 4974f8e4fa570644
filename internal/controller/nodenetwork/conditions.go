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

// conditions are the controller's conditions of a node, in status.controllerConditions. What this
// process has written takes precedence over the cache, which may lag; an agent of the previous
// version, which replaces the whole status, removes them with each report.
type conditions struct {
	// of is the UID of their object.
	of  types.UID
	now []metav1.Condition
	// written is what the API server last accepted, in the object's version.
	written []metav1.Condition
	version string
}

// loadConditions reads the conditions that were written before this process started, or since by a
// controller of the previous version.
func (w *work) loadConditions() {
	c := &w.mem.conditions
	if c.of != w.nn.UID || len(w.nn.Spec.Conditions) > 0 {
		*c = conditions{of: w.nn.UID, now: slices.Clone(w.nn.ControllerConditions())}
	}
}

// setCondition sets a condition and reports whether it has become False, or is False for another
// reason: then an event is due.
func (w *work) setCondition(c metav1.Condition) (bad bool) {
	c.LastTransitionTime = metav1.NewTime(w.Now().Truncate(time.Second))
	was := w.findCondition(c.Type)
	news := was == nil || was.Status != c.Status || was.Reason != c.Reason
	meta.SetStatusCondition(&w.mem.conditions.now, c)
	return news && c.Status == metav1.ConditionFalse
}

// findCondition returns a current condition, nil if there is none of the type.
func (w *work) findCondition(kind string) *metav1.Condition {
	return meta.FindStatusCondition(w.mem.conditions.now, kind)
}

// removeCondition removes a condition.
func (w *work) removeCondition(kind string) {
	meta.RemoveStatusCondition(&w.mem.conditions.now, kind)
}

// saveConditions writes the conditions if the API server has others. The patch contains no other
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
	// Strict: else an API server whose CRD does not have the field would accept the patch and drop
	// it.
	err = w.Client.Status().Patch(ctx, out, client.RawPatch(types.MergePatchType, patch), client.FieldValidation(metav1.FieldValidationStrict))
	switch {
	case err != nil && strings.Contains(err.Error(), `unknown field "status.controllerConditions"`):
		w.outdated.Do(func() { w.warnAll("CRDOutdated", "%s", crdOutdated) })
		return nil // this process still has the conditions in memory
	case err != nil:
		return fmt.Errorf("write the conditions of NodeNetwork %s: %w", w.name, err)
	}
	c.written, c.version = slices.Clone(c.now), out.ResourceVersion
	return nil
}
