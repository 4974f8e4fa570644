// Package admit is the admission webhook for pods. It has three parts, each of which gets only pods that
// it concerns:
//   - a pod requests an exclusive ENI, the webhook adds the resource that the scheduler counts, and
//     rejects contradictory pods; package podeni makes the decision;
//   - a pod's bandwidth is limited, or it has a network priority: wrong values are rejected, also when a pod is changed; package
//     bandwidth makes the decision;
//   - a pod is created in a namespace whose pods get readiness gates, and load balancers of Services will have
//     it as a backend: it gets their gates, and its containers sleep before they end; package loadbalancer
//     makes the decision. This part refuses nothing, and pods are created without it if no controller answers.
//
// It owns the contents of the Secret terway-webhook and the caBundle of the
// MutatingWebhookConfiguration of that name; the chart creates and deletes both objects. Every
// replica serves and updates both, so no leader's death leaves the API server with a certificate
// that nobody can serve. The API server must always trust every certificate that some replica may
// still serve.
package admit

// Name is the name of the Secret, the Service and the MutatingWebhookConfiguration (the chart's
// templates/admission.yaml).
const Name = "terway-webhook"

// Paths are the URL paths to which the API server sends pods (the chart's templates/admission.yaml).
const (
	PathExclusiveENI = "/exclusive-eni"
	PathBandwidth    = "/bandwidth"
	// PathLoadBalancers is for readiness gates and sleeps.
	PathLoadBalancers = "/load-balancers"
	// PathGatesRequired is for the same in namespaces that have no pod without them.
	PathGatesRequired = "/load-balancers-required"
)
