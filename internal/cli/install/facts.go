package install

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/cloud/alibaba"
	"terway.dev/terway/internal/controller/nodeinfo"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/pages"
	"terway.dev/terway/internal/preflight"
)

// objects reads what the checks need of the cluster.
func objects(ctx context.Context, c client.Client, f *preflight.Facts) error {
	for page, err := range pages.Of(ctx, c, &corev1.NodeList{}) {
		if err != nil {
			return fmt.Errorf("list nodes: %w", err)
		}
		f.Nodes = append(f.Nodes, page.Items...)
	}
	for page, err := range pages.Of(ctx, c, &corev1.PodList{}) {
		if err != nil {
			return fmt.Errorf("list pods: %w", err)
		}
		f.Pods = append(f.Pods, page.Items...)
	}
	for page, err := range pages.Of(ctx, c, &appsv1.DaemonSetList{}) {
		if err != nil {
			return fmt.Errorf("list daemonsets.apps: %w", err)
		}
		f.DaemonSets = append(f.DaemonSets, page.Items...)
	}
	server := &unstructured.Unstructured{}
	server.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiregistration.k8s.io", Version: "v1", Kind: "APIService"})
	switch err := c.Get(ctx, client.ObjectKey{Name: "v3.projectcalico.org"}, server); {
	case err == nil:
		// Without a Service it is the API server's own, of the CustomResourceDefinitions.
		if name, ok, _ := unstructured.NestedString(server.Object, "spec", "service", "name"); ok {
			namespace, _, _ := unstructured.NestedString(server.Object, "spec", "service", "namespace")
			f.CalicoServer = namespace + "/" + name
		}
	case !apierrors.IsNotFound(err) && !meta.IsNoMatchError(err):
		return fmt.Errorf("get apiservices.apiregistration.k8s.io v3.projectcalico.org: %w", err)
	}
	return nil
}

// denied asks the API server which of the chart's objects the user may not make.
func denied(ctx context.Context, c client.Client, namespace, manifest string) ([]string, error) {
	objects, err := parse(manifest)
	if err != nil {
		return nil, err
	}
	ask := map[authorizationv1.ResourceAttributes]bool{{Verb: "create", Resource: "secrets", Namespace: namespace}: true} // Helm's own record
	for _, o := range objects {
		gvk := o.GroupVersionKind()
		m, err := c.RESTMapper().RESTMapping(gvk.GroupKind(), gvk.Version)
		if err != nil {
			return nil, fmt.Errorf("find the resource of %s: %w", gvk, err)
		}
		a := authorizationv1.ResourceAttributes{Group: m.Resource.Group, Resource: m.Resource.Resource}
		if m.Scope.Name() == meta.RESTScopeNameNamespace {
			a.Namespace = cmp.Or(o.GetNamespace(), namespace)
		}
		for _, verb := range []string{"create", "patch"} {
			a.Verb = verb
			ask[a] = true
		}
	}
	var no []string
	for a := range ask {
		review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &a}}
		if err := c.Create(ctx, review); err != nil {
			return nil, fmt.Errorf("ask whether you may %s %s: %w", a.Verb, a.Resource, err)
		}
		if !review.Status.Allowed {
			what := a.Verb + " " + schema.GroupResource{Group: a.Group, Resource: a.Resource}.String()
			if a.Namespace != "" {
				what += " in " + a.Namespace
			}
			no = append(no, what)
		}
	}
	slices.Sort(no)
	return no, nil
}

// credential finds the controller's credential, if somebody else may use it: the access key of a Secret or of the values. wrong says
// what is wrong with it.
func credential(ctx context.Context, c client.Client, namespace string, v *values) (source alibaba.CredentialSource, wrong string, err error) {
	switch {
	case v.Credentials.Source != "secret":
		return nil, "", nil
	case v.Credentials.ExistingSecret == "":
		return alibaba.StaticCredentials(v.Credentials.AccessKeyID, v.Credentials.AccessKeySecret), "", nil
	}
	name := v.Credentials.ExistingSecret
	s := &corev1.Secret{}
	switch err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, s); {
	case apierrors.IsNotFound(err):
		return nil, fmt.Sprintf("credentials.existingSecret: there is no Secret %s in namespace %s: kubectl -n %[2]s create secret generic %[1]s --from-literal=access-key-id=… --from-literal=access-key-secret=…", name, namespace), nil
	case apierrors.IsForbidden(err):
		return nil, "", nil // one who may install may not be one who may read secrets
	case err != nil:
		return nil, "", fmt.Errorf("read Secret %s/%s: %w", namespace, name, err)
	}
	for _, key := range []string{keyID, keySecret} {
		if len(s.Data[key]) == 0 {
			return nil, fmt.Sprintf("credentials.existingSecret: Secret %s/%s has no key %s", namespace, name, key), nil
		}
	}
	return alibaba.StaticCredentials(string(s.Data[keyID]), string(s.Data[keySecret])), "", nil
}

// The keys of the Secret (deploy/chart/templates/controller.yaml).
const (
	keyID     = "access-key-id"
	keySecret = "access-key-secret"
)

// nobody is in the names of resources that do not exist: a call that would change one shows only whether it may be called. The actions
// for ENIs have no dry run.
const nobody = "terwayctl-install-check"

// account is the part of the cloud's client that the checks use.
type account interface {
	cloud.API
	cloud.RouteAPI
	ListSecurityGroups(ctx context.Context, vpcID string) ([]cloud.SecurityGroup, error)
	CLB() cloud.BalancerAPI
	NLB() cloud.BalancerAPI
}

// look reads what the checks need of the account, and tries with the controller's credential what the controller will call.
func look(ctx context.Context, api account, controllers bool, f *preflight.Facts) error {
	f.Cloud = &preflight.Cloud{Controllers: controllers}
	// refused says whether a call was refused; any other error but those of want is returned.
	refused := func(action string, err error) (bool, error) {
		var e *cloud.Error
		switch {
		case err == nil:
			return false, nil
		case errors.As(err, &e) && cloud.Explain(err).Reason == "NoPermission":
			f.Cloud.Refused = append(f.Cloud.Refused, preflight.Refused{Action: action, Answer: e.Brief()})
			return true, nil
		}
		return true, err
	}
	var ids []string
	for i := range f.Nodes {
		if id, err := nodeinfo.InstanceID(f.Nodes[i].Spec.ProviderID); err == nil {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	found, err := api.DescribeInstances(ctx, slices.Compact(ids))
	no, err := refused("ecs:DescribeInstances", err)
	if err != nil {
		return err
	}
	if !no {
		f.Cloud.Instances = map[string]cloud.Instance{}
	}
	var vpcs []string
	for _, i := range found {
		f.Cloud.Instances[i.ID] = i
		if !slices.Contains(vpcs, i.VPCID) {
			vpcs = append(vpcs, i.VPCID)
		}
	}
	if f.Config.Network == claims.NetworkFlannel {
		if !controllers {
			return nil
		}
		lookForBalancers(ctx, api, f.Cloud)
		return each(refused, routes(ctx, api, vpcs))
	}
	for _, vpc := range vpcs {
		all, err := api.ListVSwitches(ctx, vpc)
		if no, err := refused("vpc:DescribeVSwitches", err); err != nil {
			return err
		} else if !no {
			f.Cloud.VSwitches = add(f.Cloud.VSwitches, all, func(v cloud.VSwitch) string { return v.ID })
		}
		if len(f.Config.SecurityGroups) == 0 {
			continue
		}
		groups, err := api.ListSecurityGroups(ctx, vpc)
		if no, err := refused("ecs:DescribeSecurityGroups", err); err != nil {
			return err
		} else if !no {
			f.Cloud.Groups = add(f.Cloud.Groups, groups, func(g cloud.SecurityGroup) string { return g.ID })
		}
	}
	if !controllers {
		return nil
	}
	lookForBalancers(ctx, api, f.Cloud)
	return each(refused, []try{
		{"vpc:DescribeVpcAttribute", func() error {
			if len(vpcs) == 0 {
				return nil
			}
			_, err := api.DescribeVPC(ctx, vpcs[0])
			return err
		}},
		{"ecs:DescribeInstanceTypes", func() error {
			f.Cloud.Types = map[string]cloud.InstanceType{}
			for _, i := range found {
				if _, ok := f.Cloud.Types[i.Type]; ok {
					continue
				}
				t, err := api.DescribeInstanceType(ctx, i.Type)
				if err != nil {
					return err
				}
				f.Cloud.Types[i.Type] = *t
			}
			return nil
		}},
		{"ecs:DescribeNetworkInterfaces", func() error {
			_, err := api.DescribeENIs(ctx, cloud.ENIFilter{IDs: []string{"eni-" + nobody}})
			return err
		}},
		{"ecs:CreateNetworkInterface", func() error {
			_, err := api.CreateENI(ctx, cloud.CreateENIRequest{Token: nobody, VSwitchID: "vsw-" + nobody, SecurityGroups: []string{"sg-" + nobody}})
			return there(err)
		}},
		{"ecs:AttachNetworkInterface", func() error { return there(api.AttachENI(ctx, "eni-"+nobody, "i-"+nobody)) }},
		{"ecs:DetachNetworkInterface", func() error { return there(api.DetachENI(ctx, "eni-"+nobody, "i-"+nobody)) }},
		{"ecs:DeleteNetworkInterface", func() error { return there(api.DeleteENI(ctx, "eni-"+nobody)) }},
		{"ecs:AssignPrivateIpAddresses", func() error {
			_, err := api.AssignAddresses(ctx, "eni-"+nobody, 1, nobody)
			return there(err)
		}},
		{"ecs:UnassignPrivateIpAddresses", func() error {
			return there(api.UnassignAddresses(ctx, "eni-"+nobody, []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, 1})}))
		}},
	})
}

// try is a call that the controller makes.
type try struct {
	action string
	call   func() error
}

// each makes all calls, whichever are refused.
func each(refused func(action string, err error) (bool, error), tries []try) error {
	for _, t := range tries {
		if _, err := refused(t.action, t.call()); err != nil {
			return err
		}
	}
	return nil
}

// routes are the controller's calls for Flannel, for a route table that does not exist.
func routes(ctx context.Context, api cloud.RouteAPI, vpcs []string) []try {
	const table = "vtb-" + nobody
	to := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, 0}), 24) // TEST-NET-1, RFC 5737
	return []try{
		{"vpc:DescribeRouteTableList", func() error {
			if len(vpcs) == 0 {
				return nil
			}
			_, err := api.DescribeRouteTables(ctx, vpcs[0])
			return err
		}},
		{"vpc:DescribeRouteEntryList", func() error {
			_, err := api.DescribeRouteEntries(ctx, table)
			return there(err)
		}},
		{"vpc:CreateRouteEntries", func() error {
			_, err := api.CreateRouteEntries(ctx, table, []cloud.NewRouteEntry{{Destination: to, InstanceID: "i-" + nobody}})
			return there(err)
		}},
		{"vpc:DeleteRouteEntries", func() error {
			_, err := api.DeleteRouteEntries(ctx, table, []cloud.RouteEntry{{ID: "rte-" + nobody, TableID: table, Destination: to}})
			return there(err)
		}},
	}
}

// patience is how long the products of load balancers, which most clusters do not need, may take to answer.
const patience = 15 * time.Second

// lookForBalancers looks for a cluster's load balancers of each product.
func lookForBalancers(ctx context.Context, api account, found *preflight.Cloud) {
	for _, p := range []struct {
		name, action string
		api          cloud.BalancerAPI
	}{{"CLB", "slb:DescribeLoadBalancers", api.CLB()}, {"NLB", "nlb:ListLoadBalancers", api.NLB()}} {
		within, cancel := context.WithTimeout(ctx, patience)
		_, err := p.api.FindBalancers(within, claims.TagCluster, nobody)
		cancel()
		if err == nil {
			continue
		}
		answer := err.Error()
		var e *cloud.Error
		if errors.As(err, &e) {
			answer = e.Brief()
		}
		found.Balancers = append(found.Balancers, preflight.Balancer{Product: p.name, Refused: preflight.Refused{Action: p.action, Answer: answer},
			Forbidden: cloud.CodeOf(err) != "" && cloud.Explain(err).Reason == "NoPermission"})
	}
}

// there drops the error that a resource does not exist, or that its name cannot exist.
func there(err error) error {
	if class := cloud.ClassOf(err); err != nil && (class == cloud.NotFound || class == cloud.Invalid) {
		return nil
	}
	return err
}

func add[T any](to map[string]T, all []T, id func(T) string) map[string]T {
	if to == nil {
		to = map[string]T{}
	}
	for _, v := range all {
		to[id(v)] = v
	}
	return to
}
