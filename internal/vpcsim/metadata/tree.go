package metadata

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// tree is the service's content: path → text. Directories follow from the paths.
type tree map[string]string

// get returns a file's text or a directory's list.
func (t tree) get(path string) (string, bool) {
	path = strings.Trim(path, "/")
	if v, ok := t[path]; ok {
		return v, true
	}
	dir := path + "/"
	if path == "" {
		dir = ""
	}
	names := map[string]bool{}
	for p := range t {
		if rest, ok := strings.CutPrefix(p, dir); ok {
			name, _, deeper := strings.Cut(rest, "/")
			if deeper {
				name += "/"
			}
			names[name] = true
		}
	}
	if len(names) == 0 {
		return "", false
	}
	list := make([]string, 0, len(names))
	for n := range names {
		list = append(list, n)
	}
	slices.Sort(list)
	return strings.Join(list, "\n"), true
}

// contents returns what an instance can read about itself, without the role's credentials.
func contents(in *Instance) (tree, error) {
	i := in.Instance
	primary := i.PrimaryIpAddress.String()
	sw := in.VSwitches[i.VSwitchId]
	meta := tree{
		"hostname":                     i.HostName,
		"image-id":                     i.ImageId,
		"instance-id":                  i.InstanceId,
		"instance/instance-type":       i.InstanceType,
		"instance/instance-name":       i.InstanceName,
		"instance/max-netbw-egress":    strconv.Itoa(in.Type.BandwidthKbit()),
		"instance/max-netbw-ingress":   strconv.Itoa(in.Type.BandwidthKbit()),
		"instance/virtualization-type": "kvm",
		"network-type":                 "vpc",
		"dns-conf/nameservers":         "100.100.2.136\n100.100.2.138",
		"ntp-conf/ntp-servers":         "ntp.cloud.aliyuncs.com",
		"owner-account-id":             in.OwnerID,
		"private-ipv4":                 primary,
		"region-id":                    i.RegionId,
		"zone-id":                      i.ZoneId,
		"serial-number":                i.SerialNumber,
		"source-address":               "http://mirrors.cloud.aliyuncs.com",
		"vpc-id":                       i.VpcId,
		"vpc-cidr-block":               in.VPC.CidrBlock.String(),
		"vswitch-id":                   i.VSwitchId,
		"vswitch-cidr-block":           sw.CidrBlock.String(),
	}
	for _, n := range i.NetworkInterfaces {
		if n.Slot == 0 {
			meta["mac"] = n.MacAddress
		}
		addresses, err := json.Marshal(n.PrivateIpAddresses)
		if err != nil {
			return nil, fmt.Errorf("addresses of %s: %w", n.NetworkInterfaceId, err)
		}
		sw := in.VSwitches[n.VSwitchId]
		mac := "network/interfaces/macs/" + n.MacAddress + "/"
		meta[mac+"network-interface-id"] = n.NetworkInterfaceId
		meta[mac+"primary-ip-address"] = n.PrimaryIpAddress.String()
		meta[mac+"private-ipv4s"] = string(addresses)
		meta[mac+"netmask"] = netmask(sw.CidrBlock)
		meta[mac+"gateway"] = sw.Gateway().String()
		meta[mac+"vswitch-id"] = n.VSwitchId
		meta[mac+"vswitch-cidr-block"] = sw.CidrBlock.String()
		meta[mac+"vpc-id"] = n.VpcId
		meta[mac+"vpc-cidr-block"] = in.VPC.CidrBlock.String()
		if sw.Ipv6CidrBlock.IsValid() {
			meta[mac+"vswitch-ipv6-cidr-block"] = sw.Ipv6CidrBlock.String()
			meta[mac+"ipv6-gateway"] = sw.Ipv6Gateway().String()
			meta[mac+"vpc-ipv6-cidr-blocks"] = in.VPC.Ipv6CidrBlock.String()
			if len(n.Ipv6Addresses) > 0 {
				list := make([]string, len(n.Ipv6Addresses))
				for k, a := range n.Ipv6Addresses {
					list[k] = a.String()
				}
				// Not JSON: the service uses no quotes here.
				meta[mac+"ipv6s"] = "[" + strings.Join(list, ", ") + "]"
			}
		}
	}
	all := tree{}
	for p, v := range meta {
		all["meta-data/"+p] = v
	}
	if i.UserData != "" {
		// User data is stored in base64 and served decoded.
		plain, err := base64.StdEncoding.DecodeString(i.UserData)
		if err != nil {
			plain = []byte(i.UserData)
		}
		all["user-data"] = string(plain)
	}
	document, err := json.Marshal(map[string]string{
		"zone-id": i.ZoneId, "serial-number": i.SerialNumber, "instance-id": i.InstanceId, "region-id": i.RegionId,
		"private-ipv4": primary, "owner-account-id": in.OwnerID, "mac": meta["mac"], "image-id": i.ImageId,
		"instance-type": i.InstanceType,
	})
	if err != nil {
		return nil, fmt.Errorf("identity document of %s: %w", i.InstanceId, err)
	}
	all["dynamic/instance-identity/document"] = string(document)
	return all, nil
}

func netmask(p netip.Prefix) string {
	return net.IP(net.CIDRMask(p.Bits(), 32)).String()
}
