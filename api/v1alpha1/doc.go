// Package v1alpha1 has the Go types of Terway's custom resources. It has no
// behaviour: the comments say what the fields mean, and the API server
// enforces the markers beside them.
//
// +kubebuilder:object:generate=true
// +groupName=network.terway.dev
package v1alpha1

//go:generate go run sigs.k8s.io/controller-tools/cmd/controller-gen object paths=. crd output:crd:dir=../../deploy/chart/kinds
