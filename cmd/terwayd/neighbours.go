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

// neighbours keeps the node's network managers off what is Terway's, and returns what says
// of an ENI's device that one has it all the same. Without dropIns it leaves them alone, and takes
// back what an agent with dropIns wrote. On a node whose /etc cannot be written the agent works
// too: what the managers do is repaired and named.
func neighbours(root string, dropIns bool, log *slog.Logger) func(device string) []string {
	if root == "" {
		return nil
	}
	host := hostOf(root)
	if !dropIns {
		switch removed, err := host.Remove(); {
		case err != nil:
			log.Error("files that keep network managers off ENIs are not removed", "error", err)
		case len(removed) > 0:
			log.Info("removed files that kept network managers off pods' devices and ENIs; the managers know when they are told: "+
				"nmcli general reload conf; systemctl restart systemd-networkd", "files", removed)
		}
		return nil
	}
	device, err := primary()
	var changed []string
	if err == nil {
		changed, err = host.Install(device)
	}
	if err != nil {
		log.Error("the node's network managers are not told to leave ENIs alone", "error", err)
	}
	if len(changed) > 0 {
		log.Info("wrote files that keep network managers off pods' devices and ENIs; they hold when the managers are told: "+
			"nmcli general reload conf; systemctl restart systemd-networkd", "files", changed)
	}
	return func(device string) []string {
		link, err := netlink.LinkByName(device)
		if err != nil {
			return nil // gone just now: others say so
		}
		return host.Managed(device, link.Attrs().Index)
	}
}

// primary is the device of the node's default route.
func primary() (hostconf.Device, error) {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlinkx.List(context.Background(), "the node's default routes", func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
		})
		if err != nil {
			return hostconf.Device{}, err
		}
		for _, r := range routes {
			link, err := netlink.LinkByIndex(r.LinkIndex)
			if err != nil {
				continue
			}
			return hostconf.Device{Name: link.Attrs().Name, MAC: link.Attrs().HardwareAddr}, nil
		}
	}
	return hostconf.Device{}, errors.New("the node has no default route: which device is its own, and not an ENI for pods, is not known")
}
