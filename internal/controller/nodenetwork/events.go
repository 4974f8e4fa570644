package nodenetwork

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
)

// reportDatapath records an event for what the node's kernel lacks for a datapath, or for obstacles
// on the node, once for each change. The agent, which detects them, has RBAC only for events of
// pods.
func (w *work) reportDatapath() {
	c := meta.FindStatusCondition(w.nn.Status.Conditions, v1alpha1.ConditionDatapathReady)
	if c == nil {
		return
	}
	kind := corev1.EventTypeWarning
	switch c.Reason {
	case v1alpha1.ReasonDatapathRefused, v1alpha1.ReasonDatapathKept, v1alpha1.ReasonDatapathObstructed:
	case v1alpha1.ReasonDatapathAutoLacking:
		kind = corev1.EventTypeNormal // it works, but not with the fastest datapath
	default:
		if c.Status == metav1.ConditionTrue {
			w.mem.datapath = "" // all is well; a condition that is False for a while changes no choice
		}
		return
	}
	news := c.Reason + ": " + c.Message
	if news == w.mem.datapath {
		return
	}
	w.mem.datapath = news
	w.Log.Info("the node's datapath", "node", w.name, "reason", c.Reason, "message", c.Message)
	for _, obj := range []client.Object{w.node, w.nn} {
		w.Events.Eventf(obj, nil, kind, "Datapath"+c.Reason, "Reconcile", "%s", c.Message)
	}
}

// warn records a warning event on one object.
func (r *Reconciler) warn(obj client.Object, reason, message string) {
	r.Events.Eventf(obj, nil, corev1.EventTypeWarning, reason, "Reconcile", "%s", message)
}

// tell records an event on the Node, if it exists.
func (w *work) tell(reason, format string, args ...any) {
	if w.node != nil {
		w.Events.Eventf(w.node, nil, corev1.EventTypeNormal, reason, "Reconcile", format, args...)
	}
}

// maxWarned bounds the number of remembered warnings of a node.
const maxWarned = 100

// once passes a message on, unless it was passed on before with this key.
func (w *work) once(key, message string, pass func(string)) {
	if k := key + "\x00" + message; !w.mem.warned[k] {
		if len(w.mem.warned) >= maxWarned {
			clear(w.mem.warned)
		}
		w.mem.warned[k] = true
		pass(message)
	}
}

// warnAll records a warning event on the Node and on its NodeNetwork, and logs it.
func (w *work) warnAll(reason, format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	w.Log.Warn(message, "node", w.name, "reason", reason)
	if w.node != nil {
		w.warn(w.node, reason, message)
	}
	w.warn(w.nn, reason, message)
}
