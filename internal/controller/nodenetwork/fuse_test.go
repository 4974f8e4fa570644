package nodenetwork

import (
	"context"
	"net/netip"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/controller/cloudtest"
)

// fusedClient is an API server client of a controller that may be killed.
type fusedClient struct {
	client.WithWatch
	fuse *cloudtest.Fuse
}

func (c fusedClient) Create(ctx context.Context, obj client.Object, opts ...client.CreateOption) error {
	return c.fuse.Do(func() error { return c.WithWatch.Create(ctx, obj, opts...) })
}

func (c fusedClient) Update(ctx context.Context, obj client.Object, opts ...client.UpdateOption) error {
	return c.fuse.Do(func() error { return c.WithWatch.Update(ctx, obj, opts...) })
}

func (c fusedClient) Patch(ctx context.Context, obj client.Object, p client.Patch, opts ...client.PatchOption) error {
	return c.fuse.Do(func() error { return c.WithWatch.Patch(ctx, obj, p, opts...) })
}

func (c fusedClient) Delete(ctx context.Context, obj client.Object, opts ...client.DeleteOption) error {
	return c.fuse.Do(func() error { return c.WithWatch.Delete(ctx, obj, opts...) })
}

func (c fusedClient) Status() client.SubResourceWriter {
	return fusedStatus{c.WithWatch.Status(), c.fuse}
}

type fusedStatus struct {
	client.SubResourceWriter
	fuse *cloudtest.Fuse
}

func (s fusedStatus) Patch(ctx context.Context, obj client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
	return s.fuse.Do(func() error { return s.SubResourceWriter.Patch(ctx, obj, p, opts...) })
}

// fusedCloud is a cloud client of a controller that may be killed.
type fusedCloud struct {
	cloud.API
	fuse *cloudtest.Fuse
}

func (c *fusedCloud) CreateENI(ctx context.Context, r cloud.CreateENIRequest) (e *cloud.ENI, err error) {
	err = c.fuse.Do(func() (err error) { e, err = c.API.CreateENI(ctx, r); return err })
	return e, err
}

func (c *fusedCloud) AttachENI(ctx context.Context, eni, instance string) error {
	return c.fuse.Do(func() error { return c.API.AttachENI(ctx, eni, instance) })
}

func (c *fusedCloud) DetachENI(ctx context.Context, eni, instance string) error {
	return c.fuse.Do(func() error { return c.API.DetachENI(ctx, eni, instance) })
}

func (c *fusedCloud) DeleteENI(ctx context.Context, eni string) error {
	return c.fuse.Do(func() error { return c.API.DeleteENI(ctx, eni) })
}

func (c *fusedCloud) AssignAddresses(ctx context.Context, eni string, n int, token string) (a []netip.Addr, err error) {
	err = c.fuse.Do(func() (err error) { a, err = c.API.AssignAddresses(ctx, eni, n, token); return err })
	return a, err
}

func (c *fusedCloud) UnassignAddresses(ctx context.Context, eni string, a []netip.Addr) error {
	return c.fuse.Do(func() error { return c.API.UnassignAddresses(ctx, eni, a) })
}
