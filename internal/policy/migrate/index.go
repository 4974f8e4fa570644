package migrate

import (
	"reflect"

	"terway.dev/terway/internal/policy/translate"
)

// Key is the kind and name of an object.
type Key struct{ Kind, Namespace, Name string }

// KeyOf is an object's. Its Go type has the name of its kind, whether or not the object says it.
func KeyOf(o Object) Key {
	return Key{reflect.TypeOf(o).Elem().Name(), o.GetNamespace(), o.GetName()}
}

// Index is what there is of the new API among objects, if it is of a kind that is moved.
func Index(o translate.Objects) map[Key]Object {
	all := map[Key]Object{}
	index(all, o.Tiers)
	index(all, o.GlobalNetworkSets)
	index(all, o.NetworkSets)
	index(all, o.HostEndpoints)
	index(all, o.GlobalNetworkPolicies)
	index(all, o.CalicoPolicies)
	index(all, o.StagedGlobalNetworkPolicies)
	index(all, o.StagedNetworkPolicies)
	index(all, o.StagedKubernetesNetworkPolicies)
	return all
}

func index[T Object](into map[Key]Object, list []T) {
	for _, o := range list {
		into[KeyOf(o)] = o
	}
}
