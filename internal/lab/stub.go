package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
)

func (o *Options) stubCloud(ctx context.Context, s *State) error {
	run := func(args ...string) error {
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w %s", args, err, out)
		}
		return nil
	}
	if err := run("ip", "netns", "add", Prefix+"fabric"); err != nil {
		return err
	}
	for _, a := range [][]string{{"link", "add", "br0", "type", "bridge"}, {"addr", "add", "192.168.0.1/19", "dev", "br0"}, {"link", "set", "br0", "up"}} {
		if err := run(append([]string{"ip", "-n", Prefix + "fabric"}, a...)...); err != nil {
			return err
		}
	}
	for i := 0; i <= o.Nodes; i++ {
		m := Machine{Name: masterName, InstanceID: fmt.Sprintf("i-stub%d", i), Type: o.InstanceType, Zone: o.Zones[0],
			Address: netip.AddrFrom4([4]byte{192, 168, 0, byte(10 + i)}), MaxPods: 32}
		if i > 0 {
			m.Name = fmt.Sprintf("node%d", i)
		}
		ns := Prefix + m.Name
		m.NetNS = netnsDir + "/" + ns
		for _, a := range [][]string{
			{"ip", "netns", "add", ns},
			{"ip", "-n", Prefix + "fabric", "link", "add", "p" + m.Name, "type", "veth", "peer", "name", "eth0", "netns", ns},
			{"ip", "-n", Prefix + "fabric", "link", "set", "p" + m.Name, "master", "br0", "up"},
			{"ip", "-n", ns, "link", "set", "lo", "up"},
			{"ip", "-n", ns, "addr", "add", m.Address.String() + "/19", "dev", "eth0"},
			{"ip", "-n", ns, "link", "set", "eth0", "up"},
			{"ip", "-n", ns, "route", "add", "default", "via", "192.168.0.1"},
		} {
			if err := run(a...); err != nil {
				return err
			}
		}
		if i == 0 {
			s.Master = m
		} else {
			s.Machines = append(s.Machines, m)
		}
	}
	return nil
}
