package main

import (
	"context"
	"errors"
	"log/slog"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/agent"
	"terway.dev/terway/internal/agent/hostconf"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/netlinkx"
)

func hostOf(root string) hostconf.Host {
	return hostconf.Host{Root: root, Pods: claims.DevicePrefix, Write: agent.WriteFile}
}

// neighbours keeps the node's network managers away from Terway's devices, and returns a function
// that reports whether one manages an ENI's device anyway. Without dropIns it writes no files, and
// removes those that an agent with dropIns wrote. On a node with a read-only /etc the agent works too: changes by
// the managers are repaired and reported.
func neighbours(root string, dropIns bool, log *slog.Logger) func(device string) []string {
	if root == "" {
		return nil
	}
	host := hostOf(root)
	if !dropIns {
		switch removed, err := host.Remove(); {
		case err != nil:
			log.Error("cannot remove the files that keep network managers away from ENIs", "error", err)
		case len(removed) > 0:
			log.Info("removed files that kept network managers away from pods' devices and ENIs; to apply this: "+
				"nmcli general reload conf; systemctl restart systemd-networkd", "files", removed)
		}
	} else {
		device, err := primary()
		var changed []string
		if err == nil {
			changed, err = host.Install(device)
		}
		if err != nil {
			log.Error("cannot write the files that keep network managers away from ENIs", "error", err)
		}
		if len(changed) > 0 {
			log.Info("wrote files that keep network managers away from pods' devices and ENIs; to apply them: "+
				"nmcli general reload conf; systemctl restart systemd-networkd", "files", changed)
		}
	}
	return func(device string) []string {
		link, err := netlink.LinkByName(device)
		if err != nil {
			return nil // deleted just now: another part reports it
		}
		return host.Managed(device, link.Attrs().Index)
	}
}

// primary returns the device of the node's default route.
func primary() (hostconf.Device, error) {
	for _, family := range netlinkx.Families {
		routes, err := netlinkx.List(context.Background(), "the node's default routes", func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
		})
		if err != nil && !netlinkx.NoFamily(err) {
			return hostconf.Device{}, err
		}
		for _, r := range routes {
			link, err := netlink.LinkByIndex(r.LinkIndex)
			if err != nil {
				continue
			}
			at := link.Attrs()
			return hostconf.Device{Name: at.Name, AltNames: at.AltNames, MAC: at.HardwareAddr}, nil
		}
	}
	return hostconf.Device{}, errors.New("the node has no default route: it is unknown which device is the node's own and not an ENI for pods")
}
