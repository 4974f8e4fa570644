package nodenetwork

import (
	"context"
	"net/netip"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"terway.dev/terway/internal/cloud"
)

// fusedClient is the API server as a controller sees it that may be killed.
type fusedClient struct {
	client.WithWatch
	fuse *fuse
}

func burn(f *fuse, do func() error) error {
	made, answered := f.pass()
	if !made {
		return errCrash
	}
	if err := do(); answered {
		return err
	}
	return errCrash
}

func (c fusedClient) Create(ctx context.Context, obj client.Object, opts ...client.CreateOption) error {
	return burn(c.fuse, func() error { return c.WithWatch.Create(ctx, obj, opts...) })
}

func (c fusedClient) Update(ctx context.Context, obj client.Object, opts ...client.UpdateOption) error {
	return burn(c.fuse, func() error { return c.WithWatch.Update(ctx, obj, opts...) })
}

func (c fusedClient) Patch(ctx context.Context, obj client.Object, p client.Patch, opts ...client.PatchOption) error {
	return burn(c.fuse, func() error { return c.WithWatch.Patch(ctx, obj, p, opts...) })
}

func (c fusedClient) Delete(ctx context.Context, obj client.Object, opts ...client.DeleteOption) error {
	return burn(c.fuse, func() error { return c.WithWatch.Delete(ctx, obj, opts...) })
}

// fusedCloud is the cloud as a controller sees it that may be killed.
type fusedCloud struct {
	cloud.API
	fuse *fuse
}

func (c *fusedCloud) CreateENI(ctx context.Context, r cloud.CreateENIRequest) (e *cloud.ENI, err error) {
	err = burn(c.fuse, func() (err error) { e, err = c.API.CreateENI(ctx, r); return err })
	return e, err
}

func (c *fusedCloud) AttachENI(ctx context.Context, eni, instance string) error {
	return burn(c.fuse, func() error { return c.API.AttachENI(ctx, eni, instance) })
}

func (c *fusedCloud) DetachENI(ctx context.Context, eni, instance string) error {
	return burn(c.fuse, func() error { return c.API.DetachENI(ctx, eni, instance) })
}

func (c *fusedCloud) DeleteENI(ctx context.Context, eni string) error {
	return burn(c.fuse, func() error { return c.API.DeleteENI(ctx, eni) })
}

func (c *fusedCloud) AssignAddresses(ctx context.Context, eni string, n int, token string) (a []netip.Addr, err error) {
	err = burn(c.fuse, func() (err error) { a, err = c.API.AssignAddresses(ctx, eni, n, token); return err })
	return a, err
}

func (c *fusedCloud) UnassignAddresses(ctx context.Context, eni string, a []netip.Addr) error {
	return burn(c.fuse, func() error { return c.API.UnassignAddresses(ctx, eni, a) })
}
