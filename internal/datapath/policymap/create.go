package policymap

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
)

// needs is the feature that a kernel lacks if Create fails with ErrNotSupported or EINVAL.
const needs = "maps of maps that differ in size (Linux 5.10)"

// Create makes the maps of policy.h, with nothing in them: nothing passes. The kernel frees them when nobody holds them
// any more. The error is a datapath.UnsupportedError if the kernel cannot have them.
func Create() (map[string]*ebpf.Map, error) {
	// Kernels before 5.11 count maps against the limit of locked memory.
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("lift the limit of locked memory: %w", err)
	}
	halves := []*ebpf.MapSpec{headShape.Copy()}
	for _, p := range new(Writer).places(Limits{}) {
		halves = append(halves, p.shape())
	}
	kernel := map[string]*ebpf.Map{}
	for _, half := range halves {
		half.MaxEntries = 1
		m, err := ebpf.NewMap(&ebpf.MapSpec{Name: half.Name, Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 2, InnerMap: half})
		if err != nil {
			err = datapath.Lacks(needs, err, ebpf.ErrNotSupported, unix.EINVAL)
			return nil, errors.Join(fmt.Errorf("make map %s: %w", half.Name, err), Close(kernel))
		}
		kernel[half.Name] = m
	}
	return kernel, nil
}

// Close gives maps up.
func Close(kernel map[string]*ebpf.Map) error {
	var errs []error
	for _, m := range kernel {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}
