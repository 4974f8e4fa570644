package fabric

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"github.com/vishvananda/netlink"

	"terway.dev/terway/internal/kernel"
)

// The steps of Apply that add and remove namespaces and devices.

func (f *Fabric) createNamespaces(ctx context.Context, t *Topology) error {
	for i := range t.Instances {
		in := &t.Instances[i]
		if isNS(f.namespaces[in.ID]) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		// The devices of a namespace without a name cannot be reached.
		if err := f.removeDevices(func(d *device) bool { return d.instance == in.ID }); err != nil {
			return err
		}
		path := f.freePath(in)
		if err := makeNS(path, f.ownerAlias(in.ID), nil); err != nil {
			return fmt.Errorf("instance %s: %w", in.ID, err)
		}
		f.namespaces[in.ID] = path
		f.opts.Logger.Info("instance made", "instance", in.ID, "namespace", path)
	}
	return nil
}

// freePath prefers the instance's name to its id. A namespace keeps its path, even if the
// instance is renamed.
func (f *Fabric) freePath(in *Instance) string {
	path := filepath.Join(f.opts.Dir, f.opts.Prefix+in.Name)
	if nameForm.MatchString(in.Name) && !isReserved(in.Name) && !isNS(path) {
		return path
	}
	return filepath.Join(f.opts.Dir, f.opts.Prefix+in.ID)
}

// isReplaced reports whether the ENI needs another device.
func isReplaced(t *Topology, d *device) bool {
	for i := range t.Instances {
		in := &t.Instances[i]
		for j := range in.Ports {
			p := &in.Ports[j]
			if p.ENI == d.eni {
				return d.instance != in.ID || d.mac != net.HardwareAddr(p.MAC[:]).String()
			}
		}
	}
	return false
}

func (f *Fabric) createDevices(ctx context.Context, t *Topology) error {
	vswitches := map[string]*VSwitch{}
	for i := range t.VSwitches {
		vswitches[t.VSwitches[i].ID] = &t.VSwitches[i]
	}
	for i := range t.Instances {
		in := &t.Instances[i]
		for j := range in.Ports {
			p := &in.Ports[j]
			if f.devices[p.ENI] != nil {
				continue
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := f.createPort(in, p, vswitches[p.VSwitch]); err != nil {
				return err
			}
			f.opts.Logger.Info("ENI plugged in", "eni", p.ENI, "instance", in.ID, "port", f.devices[p.ENI].name)
		}
	}
	return nil
}

// setCarriers gives the guest's devices a carrier while the instance runs.
func (f *Fabric) setCarriers(t *Topology) error {
	for i := range t.Instances {
		in := &t.Instances[i]
		if !in.Running {
			if err := f.closeListeners(in.ID); err != nil {
				return err
			}
		}
		for j := range in.Ports {
			d := f.devices[in.Ports[j].ENI]
			if d.up == in.Running {
				continue
			}
			link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: int(d.ifindex)}}
			set := f.handle.LinkSetUp
			if !in.Running {
				set = f.handle.LinkSetDown
			}
			if err := set(link); err != nil {
				return fmt.Errorf("set the carrier of ENI %s: %w", d.eni, err)
			}
			d.up = in.Running
		}
	}
	return nil
}

// removeDevices deletes ENIs at the port: this deletes the guest's end too, whatever its name
// and wherever the guest has moved it.
func (f *Fabric) removeDevices(which func(*device) bool) error {
	for eni, d := range f.devices {
		if !which(d) {
			continue
		}
		if err := f.deleteLink(int(d.ifindex)); err != nil {
			return fmt.Errorf("pull ENI %s out of instance %s: %w", eni, d.instance, err)
		}
		delete(f.devices, eni)
		delete(f.attached, d.ifindex)
		f.opts.Logger.Info("ENI pulled out", "eni", eni, "instance", d.instance)
	}
	return nil
}

func (f *Fabric) removeNamespaces(t *Topology) error {
	wanted := map[string]bool{}
	for i := range t.Instances {
		wanted[t.Instances[i].ID] = true
	}
	for instance, path := range f.namespaces {
		if wanted[instance] {
			continue
		}
		if err := errors.Join(f.closeListeners(instance), kernel.RemoveNamespace(path)); err != nil {
			return fmt.Errorf("instance %s: %w", instance, err)
		}
		delete(f.namespaces, instance)
		f.opts.Logger.Info("instance removed", "instance", instance, "namespace", path)
	}
	return nil
}
