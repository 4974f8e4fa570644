// Package admit lets pods ask for an ENI of their own by an annotation: a mutating
// admission webhook adds the resource request that the scheduler counts, and refuses
// what contradicts itself. Package podeni decides.
//
// It owns the contents of the Secret terway-webhook and the caBundle of the
// MutatingWebhookConfiguration of that name; the chart makes and removes both objects.
// Every replica serves, and keeps both right: there is no leader whose death could
// leave the API server with a certificate that nobody has. It must never let the API
// server trust less than what some replica may still serve.
package admit

// Name is that of the Secret, the Service and the MutatingWebhookConfiguration (the
// chart's templates/admission.yaml).
const Name = "terway-webhook"

// Path is where the API server sends pods to (the chart's templates/admission.yaml).
const Path = "/exclusive-eni"
