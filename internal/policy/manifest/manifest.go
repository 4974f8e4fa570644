// Package manifest reads policies and the objects that they refer to from YAML: what a user
// applies, or saves with "kubectl get … -o yaml".
//
// It knows the kinds and which list of translate.Objects each belongs to. Package translate
// gives them a meaning.
package manifest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	cnpv1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	v3 "terway.dev/terway/api/calico/v3"
	"terway.dev/terway/internal/policy/migrate"
	"terway.dev/terway/internal/policy/translate"
)

// A Reader collects objects.
type Reader struct {
	Objects translate.Objects
	// Namespace is given to namespaced objects without one, as kubectl does. "": they stay
	// without.
	Namespace string
	// ConfigMap is the name of the ConfigMaps that go into ConfigMaps; all others are skipped.
	ConfigMap  string
	ConfigMaps []*corev1.ConfigMap
	// Old are objects of migrate.OldAPI, Calico's private group, whatever their kind.
	Old []*unstructured.Unstructured
	// Skipped counts objects that say nothing of policies, by kind.
	Skipped map[string]int

	decoder runtime.Decoder
}

// NewReader returns an empty Reader.
func NewReader() (*Reader, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, discoveryv1.AddToScheme, networkingv1.AddToScheme, cnpv1.Install, v3.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("register kinds: %w", err)
		}
	}
	return &Reader{
		Skipped: map[string]int{},
		decoder: serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer(),
	}, nil
}

// Folder reads all files of a folder and its subfolders that end with .yaml, .yml or .json.
func (r *Reader) Folder(files fs.FS) error {
	var errs []error
	err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !slices.Contains([]string{".yaml", ".yml", ".json"}, path.Ext(name)) {
			return err
		}
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		if err := r.Read(text); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
		return nil
	})
	return errors.Join(append(errs, err)...)
}

// Read reads documents of YAML or JSON; the items of a List count as documents. An object with
// an unknown field is an error; an object that policies do not use is counted.
func (r *Reader) Read(text []byte) error {
	docs := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for n := 1; ; n++ {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = r.document(doc)
		}
		if err != nil {
			return fmt.Errorf("document %d: %w", n, err)
		}
	}
}

func (r *Reader) document(doc []byte) error {
	json, err := yaml.ToJSON(doc)
	if err != nil {
		return err
	}
	if s := string(bytes.TrimSpace(json)); s == "null" || s == "" {
		return nil // only comments
	}
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal(json, &kind); err != nil {
		return err
	}
	object, _, err := r.decoder.Decode(json, nil, nil)
	if runtime.IsNotRegisteredError(err) {
		if kind.APIVersion == migrate.OldAPI {
			return r.old(json)
		}
		r.Skipped[kind.Kind]++
		return nil
	}
	if err != nil {
		return err
	}
	return r.add(object)
}

// old keeps an object of the private group, or those of a list of them.
func (r *Reader) old(json []byte) error {
	o := &unstructured.Unstructured{}
	if err := o.UnmarshalJSON(json); err != nil {
		return err
	}
	if !o.IsList() {
		r.Old = append(r.Old, o)
		return nil
	}
	return o.EachListItem(func(item runtime.Object) error {
		one, ok := item.(*unstructured.Unstructured)
		if !ok {
			return fmt.Errorf("an item of the list is a %T", item)
		}
		if one.GetKind() == "" { // as the API server lists them
			one.SetKind(strings.TrimSuffix(o.GetKind(), "List"))
		}
		r.Old = append(r.Old, one)
		return nil
	})
}

func (r *Reader) add(object runtime.Object) error {
	o := &r.Objects
	switch x := object.(type) {
	case *networkingv1.NetworkPolicy, *v3.NetworkPolicy, *v3.StagedNetworkPolicy, *v3.StagedKubernetesNetworkPolicy,
		*corev1.ServiceAccount, *corev1.Pod, *corev1.ConfigMap, *discoveryv1.EndpointSlice, *v3.NetworkSet:
		if m := x.(metav1.Object); m.GetNamespace() == "" {
			m.SetNamespace(r.Namespace)
		}
	}
	switch x := object.(type) {
	case *corev1.List:
		for i := range x.Items {
			if err := r.document(x.Items[i].Raw); err != nil {
				return fmt.Errorf("item %d: %w", i+1, err)
			}
		}
	case *networkingv1.NetworkPolicy:
		o.NetworkPolicies = append(o.NetworkPolicies, x)
	case *cnpv1.ClusterNetworkPolicy:
		o.ClusterNetworkPolicies = append(o.ClusterNetworkPolicies, x)
	case *v3.NetworkPolicy:
		o.CalicoPolicies = append(o.CalicoPolicies, x)
	case *v3.GlobalNetworkPolicy:
		o.GlobalNetworkPolicies = append(o.GlobalNetworkPolicies, x)
	case *v3.Tier:
		o.Tiers = append(o.Tiers, x)
	case *v3.StagedNetworkPolicy:
		o.StagedNetworkPolicies = append(o.StagedNetworkPolicies, x)
	case *v3.StagedGlobalNetworkPolicy:
		o.StagedGlobalNetworkPolicies = append(o.StagedGlobalNetworkPolicies, x)
	case *v3.StagedKubernetesNetworkPolicy:
		o.StagedKubernetesNetworkPolicies = append(o.StagedKubernetesNetworkPolicies, x)
	case *corev1.Namespace:
		o.Namespaces = append(o.Namespaces, x)
	case *corev1.ServiceAccount:
		o.ServiceAccounts = append(o.ServiceAccounts, x)
	case *corev1.Pod:
		o.Pods = append(o.Pods, x)
	case *corev1.Node:
		o.Nodes = append(o.Nodes, x)
	case *discoveryv1.EndpointSlice:
		o.EndpointSlices = append(o.EndpointSlices, x)
	case *v3.NetworkSet:
		o.NetworkSets = append(o.NetworkSets, x)
	case *v3.GlobalNetworkSet:
		o.GlobalNetworkSets = append(o.GlobalNetworkSets, x)
	case *v3.HostEndpoint:
		o.HostEndpoints = append(o.HostEndpoints, x)
	case *corev1.ConfigMap:
		if r.ConfigMap == "" || x.Name != r.ConfigMap {
			r.Skipped[x.Kind]++
			break
		}
		r.ConfigMaps = append(r.ConfigMaps, x)
	default:
		r.Skipped[object.GetObjectKind().GroupVersionKind().Kind]++
	}
	return nil
}
