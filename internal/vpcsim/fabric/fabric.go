package fabric

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/netlinkx"
)

// Options configure a fabric.
type Options struct {
	// Prefix is the prefix of all namespaces' names; it separates fabrics on one machine.
	Prefix string
	// Strict drops foreign source addresses even with SourceDestCheck off.
	Strict bool
	// Dir is where namespaces are mounted; empty: /run/netns.
	Dir    string
	Logger *slog.Logger
}

// Fabric is a switch with its instances. It is safe for concurrent use.
type Fabric struct {
	opts Options

	mu      sync.Mutex
	handle  *netlink.Handle // in the switch's namespace; nil until the first Apply
	program *programObjects

	namespaces map[string]string  // path by instance id
	devices    map[string]*device // by ENI id
	attached   map[uint32]bool    // ports with this process's program
	listeners  map[string]map[net.Listener]bool
	// lost is the function of Notify; unwatch stops watching the ports.
	lost    func()
	unwatch context.CancelFunc

	ports   *table[uint32, programPort]
	addrs   *table[programAddrKey, uint32]
	routes  *table[programRouteKey, programRoute]
	rules   *table[programRuleKey, programRule]
	buckets *table[programBucketKey, programBucket]

	balancerListeners *table[programListenerKey, programListener]
	tables            *slotTables
	backends          *table[uint64, programBackend]
	turns             *table[uint64, uint64]
}

// New validates the options; it changes nothing before Apply.
func New(opts Options) (*Fabric, error) {
	if !nameForm.MatchString(opts.Prefix) {
		return nil, fmt.Errorf("fabric: Prefix %q cannot begin a namespace's name; letters, digits, '.', '_' and '-' can", opts.Prefix)
	}
	if opts.Dir == "" {
		opts.Dir = "/run/netns"
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	return &Fabric{
		opts:       opts,
		namespaces: map[string]string{},
		devices:    map[string]*device{},
		attached:   map[uint32]bool{},
		listeners:  map[string]map[net.Listener]bool{},
	}, nil
}

func (f *Fabric) switchPath() string { return filepath.Join(f.opts.Dir, f.opts.Prefix+"fabric") }

// Apply makes the data plane match t. It reads the current state each time, so after a failed
// call or the end of another process, the next call completes the work. When Apply returns, an
// address that left an ENI is no longer delivered, one that moved is delivered to its new ENI,
// and an attached ENI is a device in its guest.
func (f *Fabric) Apply(ctx context.Context, t Topology) error {
	if err := t.Validate(); err != nil {
		return fmt.Errorf("fabric: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	t = withOwn(t)
	if err := f.apply(ctx, &t); err != nil {
		return fmt.Errorf("fabric: %w", err)
	}
	return nil
}

func (f *Fabric) apply(ctx context.Context, t *Topology) error {
	if err := f.open(); err != nil {
		return err
	}
	if err := f.observe(); err != nil {
		return err
	}
	if err := f.createNamespaces(ctx, t); err != nil {
		return err
	}
	// A device of the same ENI in another guest, or with another MAC, must be removed first.
	if err := f.removeDevices(func(d *device) bool { return isReplaced(t, d) }); err != nil {
		return err
	}
	if err := f.createDevices(ctx, t); err != nil {
		return err
	}
	ifindex := make(map[string]uint32, len(f.devices))
	for eni, d := range f.devices {
		ifindex[eni] = d.ifindex
	}
	img, err := compile(t, &f.opts, ifindex, f.tables.have)
	if err != nil {
		return err
	}
	// An address must be local before it is delivered.
	if err := f.addVIPs(t); err != nil {
		return err
	}
	if err := f.writeMaps(img); err != nil {
		return err
	}
	if err := f.attachAdopted(); err != nil {
		return err
	}
	if err := f.setCarriers(t); err != nil {
		return err
	}
	wanted := map[string]bool{}
	for i := range t.Instances {
		for j := range t.Instances[i].Ports {
			wanted[t.Instances[i].Ports[j].ENI] = true
		}
	}
	if err := f.removeDevices(func(d *device) bool { return !wanted[d.eni] }); err != nil {
		return err
	}
	if err := f.pruneMaps(img); err != nil {
		return err
	}
	if err := f.removeVIPs(t); err != nil {
		return err
	}
	return f.removeNamespaces(t)
}

// open makes or adopts the switch.
func (f *Fabric) open() error {
	if f.handle != nil {
		return nil
	}
	path := f.switchPath()
	if !isNS(path) {
		// Ports must not send anything by themselves: without IPv6 there are no router and MLD
		// messages.
		err := makeNS(path, f.ownerAlias(switchOwner), func() error {
			for _, which := range []string{"all", "default"} {
				name := "/proc/sys/net/ipv6/conf/" + which + "/disable_ipv6"
				if err := os.WriteFile(name, []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
					return fmt.Errorf("switch IPv6 off on the ports: %w", err)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	ns, err := netlinkx.Enter(path)
	if err != nil {
		return fmt.Errorf("the switch: %w", err)
	}
	defer ns.Close()
	h, err := netlinkx.Open(ns.NS) // the namespace stays
	if err != nil {
		return fmt.Errorf("the switch: %w", err)
	}
	if err := f.openProgram(h); err != nil {
		h.Close()
		return err
	}
	f.handle = h
	if err := f.watch(); err != nil {
		f.release()
		return err
	}
	found, err := f.ownedNamespaces()
	if err != nil {
		f.release()
		return err
	}
	f.namespaces = found
	return nil
}

func (f *Fabric) openProgram(h *netlink.Handle) error {
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the switch's lo: %w", err)
	}
	if want := f.ownerAlias(switchOwner); lo.Attrs().Alias != want {
		return fmt.Errorf("the namespace %s is not this fabric's: its lo has the alias %q, not %q", f.switchPath(), lo.Attrs().Alias, want)
	}
	objs, adopted, err := loadSwitch(h, lo)
	if err != nil {
		return err
	}
	f.ports = &table[uint32, programPort]{name: "ports", m: objs.Ports}
	f.addrs = &table[programAddrKey, uint32]{name: "addrs", m: objs.Addrs}
	f.routes = &table[programRouteKey, programRoute]{name: "routes", m: objs.Routes}
	f.rules = &table[programRuleKey, programRule]{name: "rules", m: objs.Rules}
	f.buckets = &table[programBucketKey, programBucket]{
		name: "buckets", m: objs.Buckets,
		settled: func(b programBucket) programBucket { return programBucket{Rate: b.Rate, Burst: b.Burst} },
	}
	f.balancerListeners = &table[programListenerKey, programListener]{name: "listeners", m: objs.Listeners}
	f.tables = &slotTables{m: objs.Slots}
	f.backends = &table[uint64, programBackend]{name: "backends", m: objs.Backends}
	f.turns = &table[uint64, uint64]{name: "turns", m: objs.Turns, settled: func(uint64) uint64 { return 0 }}
	f.program = objs
	f.opts.Logger.Info("switch opened", "namespace", f.switchPath(), "adopted", adopted)
	return nil
}

// writeMaps adds and changes entries. It also removes addresses: these must stop before devices
// are removed, which is slow.
func (f *Fabric) writeMaps(img *image) error {
	if err := f.syncStats(img.ports); err != nil {
		return err
	}
	if err := f.keepDraining(img); err != nil {
		return err
	}
	return errors.Join(
		f.rules.put(img.rules),
		f.buckets.put(img.buckets),
		f.ports.put(img.ports),
		f.addrs.put(img.addrs),
		f.addrs.prune(img.addrs),
		f.routes.put(img.routes),
		f.routes.prune(img.routes),
		// A listener gets its new slots when they and their backends are complete.
		f.backends.put(img.backends),
		f.turns.put(img.turns),
		f.tables.put(img.tables),
		f.balancerListeners.put(img.listeners),
		f.balancerListeners.prune(img.listeners),
		f.backends.prune(img.backends),
	)
}

// pruneMaps removes unused entries.
func (f *Fabric) pruneMaps(img *image) error {
	return errors.Join(
		f.ports.prune(img.ports),
		f.rules.prune(img.rules),
		f.buckets.prune(img.buckets),
		f.tables.prune(img.tables),
		f.turns.prune(img.turns),
		f.pruneLoads(img.backends),
	)
}

// attachAdopted attaches this process's program to the ports of an earlier process, after the
// maps are complete, and to lo as the anchor of the maps.
func (f *Fabric) attachAdopted() error {
	if err := f.anchor(); err != nil {
		return err
	}
	for eni, d := range f.devices {
		if f.attached[d.ifindex] {
			continue
		}
		if err := attach(f.handle, int(d.ifindex), f.program.FabricPort); err != nil {
			return fmt.Errorf("port of ENI %s: %w", eni, err)
		}
		f.attached[d.ifindex] = true
	}
	return nil
}

// anchor attaches the program to lo, which is no port.
func (f *Fabric) anchor() error {
	const loIndex = 1
	if f.attached[loIndex] {
		return nil
	}
	if err := attach(f.handle, loIndex, f.program.FabricPort); err != nil {
		return fmt.Errorf("anchor on the switch's lo: %w", err)
	}
	f.attached[loIndex] = true
	return nil
}

// Close closes the kernel objects and the listeners. The data plane continues.
func (f *Fabric) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	for instance := range f.listeners {
		errs = append(errs, f.closeListeners(instance))
	}
	errs = append(errs, f.release())
	return errors.Join(errs...)
}

func (f *Fabric) release() error {
	var err error
	if f.program != nil {
		err = f.program.Close()
		f.program = nil
	}
	if f.unwatch != nil {
		f.unwatch()
		f.unwatch = nil
	}
	if f.handle != nil {
		f.handle.Close()
		f.handle = nil
	}
	f.attached = map[uint32]bool{}
	return err
}

// Destroy removes every namespace, device, program and map of this prefix, whichever process
// made them. The Fabric can be used again.
func (f *Fabric) Destroy() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	for instance := range f.listeners {
		errs = append(errs, f.closeListeners(instance))
	}
	found, err := f.ownedNamespaces()
	errs = append(errs, err)
	if isNS(f.switchPath()) {
		errs = append(errs, f.emptySwitch())
	}
	for _, path := range found {
		errs = append(errs, kernel.RemoveNamespace(path))
	}
	errs = append(errs, f.release())
	f.namespaces = map[string]string{}
	f.devices = map[string]*device{}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("fabric: destroy: %w", err)
	}
	return nil
}

// emptySwitch deletes the ports, and with them the guests' devices, then the switch.
func (f *Fabric) emptySwitch() error {
	path := f.switchPath()
	return withHandle(path, func(h *netlink.Handle, _ netns.NsHandle) error {
		links, err := netlinkx.List(context.Background(), "the ports", h.LinkList)
		if err != nil {
			return err
		}
		for _, link := range links {
			if link.Attrs().Name == "lo" {
				if want := f.ownerAlias(switchOwner); link.Attrs().Alias != want {
					return fmt.Errorf("the namespace %s is not this fabric's", path)
				}
			}
		}
		for _, link := range links {
			if link.Attrs().Name == "lo" {
				err = detach(h, link.Attrs().Index)
			} else if err = h.LinkDel(link); netlinkx.Gone(err) {
				err = nil
			}
			if err != nil {
				return fmt.Errorf("remove the port %s: %w", link.Attrs().Name, err)
			}
		}
		return kernel.RemoveNamespace(path)
	})
}
