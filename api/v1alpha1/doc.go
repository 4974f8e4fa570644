// Package v1alpha1 holds the Go types of Terway's custom resources.
//
// +kubebuilder:object:generate=true
// +groupName=network.terway.dev
package v1alpha1
