package state_test

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"terway.dev/terway/internal/vpcsim/state"
)

// The next address, compared with a model: one that was never used, as long as there is one;
// then the one that has been free for longest.
func TestOrderOfAddresses(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		vsw := w.vSwitch("192.168.2.0/28") // 12 addresses
		eni := w.eni(func(r *state.CreateNetworkInterfaceRequest) { r.VSwitchId = vsw })
		id := eni.NetworkInterfaceId
		ever := map[netip.Addr]bool{eni.PrimaryIpAddress: true}
		var freed, held []netip.Addr
		take := func(a netip.Addr) {
			ever[a] = true
			held = append(held, a)
			freed = slices.DeleteFunc(freed, func(f netip.Addr) bool { return f == a })
		}
		rt.Repeat(map[string]func(*rapid.T){
			"assign": func(rt *rapid.T) {
				n := rapid.IntRange(1, 4).Draw(rt, "count")
				got, err := w.AssignPrivateIpAddresses(state.AssignPrivateIpAddressesRequest{NetworkInterfaceId: id, SecondaryPrivateIpAddressCount: n})
				if n > 11-len(held) {
					if state.CodeOf(err) != "InvalidVSwitchId.IpNotEnough" {
						rt.Fatalf("%d addresses of %d: %v", n, 11-len(held), err)
					}
					return
				}
				check(err)
				for _, a := range got.PrivateIpAddress {
					switch {
					case slices.Contains(held, a):
						rt.Fatalf("%s is held already", a)
					case !ever[a]:
					case len(ever) < 12:
						rt.Fatalf("%s comes again before all were used once", a)
					case a != freed[0]:
						rt.Fatalf("%s comes before %v, which are free for longer", a, freed)
					}
					take(a)
				}
			},
			"assign by name": func(rt *rapid.T) {
				a := netip.AddrFrom4([4]byte{192, 168, 2, byte(rapid.IntRange(1, 12).Draw(rt, "host"))})
				_, err := w.AssignPrivateIpAddresses(state.AssignPrivateIpAddressesRequest{NetworkInterfaceId: id, PrivateIpAddress: []string{a.String()}})
				if slices.Contains(held, a) || a == eni.PrimaryIpAddress {
					if state.CodeOf(err) != "InvalidIp.IpAssigned" {
						rt.Fatalf("%s is held: %v", a, err)
					}
					return
				}
				check(err)
				take(a)
			},
			"unassign": func(rt *rapid.T) {
				if len(held) == 0 {
					rt.Skip("nothing to unassign")
				}
				a := rapid.SampledFrom(held).Draw(rt, "address")
				check(w.UnassignPrivateIpAddresses(state.UnassignPrivateIpAddressesRequest{NetworkInterfaceId: id, PrivateIpAddress: []string{a.String()}}))
				held = slices.DeleteFunc(held, func(h netip.Addr) bool { return h == a })
				freed = append(freed, a)
			},
		})
	})
}

// Prefixes come from the end that single addresses reach last.
func TestPrefixesAndAddressesKeepApart(t *testing.T) {
	w := newWorld(t)
	vsw := w.vSwitch("192.168.2.0/26") // blocks .16 and .32 are complete
	eni := w.eni(func(r *state.CreateNetworkInterfaceRequest) {
		r.VSwitchId, r.Ipv4PrefixCount = vsw, 2
	})
	want := []netip.Prefix{netip.MustParsePrefix("192.168.2.32/28"), netip.MustParsePrefix("192.168.2.16/28")}
	if !slices.Equal(eni.Ipv4Prefixes, want) {
		t.Errorf("prefixes %v, want %v", eni.Ipv4Prefixes, want)
	}
	if got := w.available(vsw); got != 60-1-32 {
		t.Errorf("%d addresses left", got)
	}
	w.refused(403, "InvalidVSwitchId.IpNotEnough", func() error {
		return errOf(w.AssignPrivateIpAddresses(state.AssignPrivateIpAddressesRequest{NetworkInterfaceId: eni.NetworkInterfaceId, Ipv4PrefixCount: 1}))
	})
	// The remaining 27 are single addresses.
	must(w.AssignPrivateIpAddresses(state.AssignPrivateIpAddressesRequest{NetworkInterfaceId: eni.NetworkInterfaceId, SecondaryPrivateIpAddressCount: 27}))
	if got := w.available(vsw); got != 0 {
		t.Errorf("%d addresses left", got)
	}
}
