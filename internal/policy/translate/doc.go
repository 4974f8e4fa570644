// Package translate converts objects of the API to the model of package policy: a Set of
// NetworkPolicy (networking.k8s.io/v1), Calico policies (projectcalico.org/v3) and
// ClusterNetworkPolicy (policy.networking.k8s.io/v1beta1), and a Cluster of pods, nodes and the
// other objects that policies refer to.
//
// It owns the semantics of each language: defaults, scopes, and the position of policies in
// tiers. It is pure: it reads objects and returns values, and must never read a cluster. A
// caller that watches objects translates those that change and calls Arrange; a caller with a
// folder of objects calls Policies.
//
// Nothing is ignored silently. If a part of a policy is not enforced as written, a Note says
// what happens instead. There are three rules:
//
//   - An object that its API would reject, or that names a missing tier, is not applied at
//     all, as in Calico. The caller may keep the former version of the object.
//   - A rule with a known condition that is not enforced (http, domainNames) matches nothing
//     if it allows: it never allows more than is written.
//   - A rule of a ClusterNetworkPolicy with a part that this version does not know fails
//     closed, as its API requires: Accept matches nothing, Deny and Pass deny everything.
package translate

// The CRD of ClusterNetworkPolicy comes from the module, with the version that conformance tests
// require.
//go:generate sh -c "install -m 644 $DOLLAR(go list -m -f '{{.Dir}}' sigs.k8s.io/network-policy-api)/config/crd/experimental/policy.networking.k8s.io_clusternetworkpolicies.yaml ../../../deploy/chart/policy/"
