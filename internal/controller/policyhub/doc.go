// Package policyhub runs the policy hub in every replica of the controller: it watches what policies are made of, tells
// the hub (package hub) what changes, serves nodes, and tells the authors of policies what is not enforced as they wrote it.
//
// It owns the caches of these objects, the port, and the contents of the Secret and the ConfigMap terway-policy, which the
// chart makes and deletes. It knows no language of policies (package translate does) and compiles nothing. It must never
// serve a node before everything has been read: a part without the policies would open what they close.
//
// # From a change to a node
//
// Handlers put the objects that changed into a map, the newest of each, and one goroutine takes them all, translates them and
// tells the hub. So a change goes out at once while nothing else happens; while the hub compiles, what comes is gathered,
// and goes out together. Nothing waits for a time.
//
// # Kinds that are not installed
//
// Calico's and ClusterNetworkPolicy are watched if their kinds are there, and looked for every half minute while they are
// not.
package policyhub

// Name is the name of the Service, the Secret and the ConfigMap (the chart's templates/policy-hub.yaml).
const Name = "terway-policy"

// Agents is the name of the agents' service account (the chart's templates/agent.yaml).
const Agents = "terwayd"
