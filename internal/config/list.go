package config

import (
	"fmt"
	"strings"
)

// unlisted returns the ConfigMap eni-config of a List, as kubectl prints several objects. It
// returns a document that is no Kubernetes object unchanged; an object of another kind is an
// error.
func unlisted(doc map[string]any) (map[string]any, error) {
	const want = "kubectl -n NAMESPACE get configmap " + ConfigMapName + " -o yaml prints it"
	items, ok := doc["items"].([]any)
	kind, _ := doc["kind"].(string)
	switch list := ok && strings.HasSuffix(kind, "List"); {
	case !list && (doc["apiVersion"] == nil || kind == "" || kind == "ConfigMap"):
		return doc, nil
	case !list:
		meta, _ := doc["metadata"].(map[string]any)
		return nil, fmt.Errorf("%s %s: want the ConfigMap %s; %s", kind, word(meta["name"]), ConfigMapName, want)
	}
	var found []map[string]any
	var all, where []string
	for _, i := range items {
		item, _ := i.(map[string]any)
		meta, _ := item["metadata"].(map[string]any)
		kind, name, namespace := word(item["kind"]), word(meta["name"]), word(meta["namespace"])
		all = append(all, kind+" "+name)
		if kind == "ConfigMap" && name == ConfigMapName {
			found, where = append(found, item), append(where, namespace)
		}
	}
	switch {
	case len(found) > 1:
		return nil, fmt.Errorf("a List with the ConfigMap %s of the namespaces %s: want one; %s", ConfigMapName, strings.Join(where, ", "), want)
	case len(found) == 1:
		return found[0], nil
	}
	const most = 5
	if more := len(all) - most; more > 0 {
		all = append(all[:most], fmt.Sprintf("%d more", more))
	}
	if len(all) == 0 {
		all = []string{"nothing in it"}
	}
	return nil, fmt.Errorf("a List with no ConfigMap %s, but %s: want that one; %s", ConfigMapName, strings.Join(all, ", "), want)
}

// word returns v if it is a string.
func word(v any) string {
	if s, ok := v.(string); ok && s != "" {
		return s
	}
	return "?"
}
