// Package translate makes the model of package policy of the objects of the API: a Set of
// NetworkPolicy (networking.k8s.io/v1), Calico's policies (projectcalico.org/v3) and
// ClusterNetworkPolicy (policy.networking.k8s.io/v1beta1), and a Cluster of pods, nodes and
// what else policies speak of.
//
// It owns what each language means: defaults, scopes, the places of policies in tiers. It is
// pure: it reads objects and writes values, and must never ask a cluster. Whoever watches
// objects translates those that change and calls Arrange; whoever has a folder of them calls
// Policies.
//
// Nothing is silently left out. What a policy says and nobody does is a Note, which says what
// happens instead. It goes by three rules:
//
//   - An object that its API would refuse, or that names a tier that is not there, is not
//     applied at all, as Calico does. Who applies policies may go on with the object as it
//     was before.
//   - A rule whose condition is known and not enforced (http, domainNames) matches nothing,
//     if it allows: an allowance is never wider than it is written.
//   - A rule of a ClusterNetworkPolicy with a part that this version does not know fails
//     closed, as its API demands: Accept matches nothing, Deny and Pass deny everything.
package translate

// ClusterNetworkPolicy's CRD, with the version that conformance tests ask of it, is the module's.
//go:generate sh -c "install -m 644 $DOLLAR(go list -m -f '{{.Dir}}' sigs.k8s.io/network-policy-api)/config/crd/experimental/policy.networking.k8s.io_clusternetworkpolicies.yaml ../../../deploy/chart/policy/"
