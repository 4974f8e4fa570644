package nodenetwork

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/api/v1alpha1"
)

// tellDatapath makes an event of what the node's kernel lacks for a datapath, or what on the
// node is in the pods' way, once for each change. The agent, which finds it out, makes events of single pods alone.
func (w *work) tellDatapath() {
	c := meta.FindStatusCondition(w.nn.Status.Conditions, v1alpha1.ConditionDatapathReady)
	if c == nil {
		return
	}
	kind := corev1.EventTypeWarning
	switch c.Reason {
	case v1alpha1.ReasonDatapathRefused, v1alpha1.ReasonDatapathKept, v1alpha1.ReasonDatapathObstructed:
	case v1alpha1.ReasonDatapathAutoLacking:
		kind = corev1.EventTypeNormal // it works, less fast
	default:
		if c.Status == metav1.ConditionTrue {
			w.mem.datapath = "" // all is well; what is False for a while changes no choice
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

// warn makes a warning event of one object.
func (r *Reconciler) warn(obj client.Object, reason, message string) {
	r.Events.Eventf(obj, nil, corev1.EventTypeWarning, reason, "Reconcile", "%s", message)
}

// toldMax bounds what is remembered of a node's warnings.
const toldMax = 100

// once passes a message on if it was not for this key already.
func (w *work) once(key, message string, tell func(string)) {
	if k := key + "\x00" + message; !w.mem.told[k] {
		if len(w.mem.told) >= toldMax {
			clear(w.mem.told)
		}
		w.mem.told[k] = true
		tell(message)
	}
}

// warnAll makes a warning event of the Node and of its NodeNetwork, and a line of the log.
func (w *work) warnAll(reason, format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	w.Log.Warn(message, "node", w.name, "reason", reason)
	if w.node != nil {
		w.warn(w.node, reason, message)
	}
	w.warn(w.nn, reason, message)
}
