package nodenetwork

import (
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
