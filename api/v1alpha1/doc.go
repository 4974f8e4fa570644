// Package v1alpha1 holds the Go types of Terway's custom resources. It holds no
// behaviour: what the fields mean is in their comments, and the API server
// enforces what can be enforced from the markers beside them.
//
// +kubebuilder:object:generate=true
// +groupName=network.terway.dev
package v1alpha1

//go:generate go run sigs.k8s.io/controller-tools/cmd/controller-gen object paths=. crd output:crd:dir=../../deploy/chart/crds
