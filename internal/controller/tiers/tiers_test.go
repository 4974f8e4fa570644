package tiers_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	v3 "terway.dev/terway/api/calico/v3"
	"terway.dev/terway/internal/controller/tiers"
)

func tiersOf(t *testing.T, c client.Reader) string {
	var list v3.TierList
	if err := c.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, tier := range list.Items {
		names = append(names, fmt.Sprintf("%s %.0f %s", tier.Name, *tier.Spec.Order, *tier.Spec.DefaultAction))
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// The three tiers are made, made again when somebody deletes one, and others are left alone; and
// all that before the kind is there is said once.
func TestKeeper(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v3.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	order, action := 5.0, v3.DefaultPass
	own := &v3.Tier{ObjectMeta: metav1.ObjectMeta{Name: "own"}, Spec: v3.TierSpec{Order: &order, DefaultAction: &action}}
	missing := 3
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(own).WithInterceptorFuncs(interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			if missing > 0 {
				missing--
				return &meta.NoKindMatchError{}
			}
			return c.List(ctx, list, opts...)
		},
	}).Build()
	var log strings.Builder
	k := &tiers.Keeper{Live: c, Client: c, Log: slog.New(slog.NewTextHandler(&log, nil)), Period: time.Hour, Retry: time.Millisecond}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	made := make(chan struct{})
	k.Client = interceptor.NewClient(c, interceptor.Funcs{Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
		err := c.Create(ctx, o, opts...)
		made <- struct{}{}
		return err
	}})
	go func() { done <- k.Start(ctx) }()
	for range 3 {
		<-made
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	const want = "default 1000000 Deny, kube-admin 1000 Pass, kube-baseline 10000000 Pass, own 5 Pass"
	if got := tiersOf(t, c); got != want {
		t.Errorf("there are %s, want %s", got, want)
	}
	if n := strings.Count(log.String(), "keep the tiers of policies"); n != 1 {
		t.Errorf("the missing kind is said %d times: %s", n, &log)
	}
	k.Client = c
	if err := c.Delete(t.Context(), &v3.Tier{ObjectMeta: metav1.ObjectMeta{Name: "kube-baseline"}}); err != nil {
		t.Fatal(err)
	}
	if err := k.Keep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := tiersOf(t, c); got != want {
		t.Errorf("after a deletion there are %s", got)
	}
}
