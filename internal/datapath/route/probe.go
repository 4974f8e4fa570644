package route

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/datapath"
	"terway.dev/terway/internal/datapath/claims"
	"terway.dev/terway/internal/datapath/nft"
	"terway.dev/terway/internal/datapath/routing"
	"terway.dev/terway/internal/kernel"
)

// Supported returns why this kernel cannot run the datapath, or nil: a datapath.UnsupportedError,
// or the error that prevented the test. It creates a rule, a pod's device and the nftables tables
// in a network namespace of its own.
func Supported() error { return kernel.InScratch(supported) }

func supported(h *netlink.Handle) error {
	if err := routing.Supported(h); err != nil {
		return err
	}
	pair := netlink.NewVeth(netlink.LinkAttrs{Name: "tw00000000000", TxQLen: -1, Group: claims.GroupPod})
	pair.PeerName = "peer"
	if err := h.LinkAdd(pair); err != nil {
		return datapath.Lacks("veth devices (CONFIG_VETH)", err, unix.EOPNOTSUPP)
	}
	scratch, err := netns.Get()
	if err != nil {
		return fmt.Errorf("open the network namespace for the test: %w", err)
	}
	defer scratch.Close()
	return nft.Supported(scratch)
}
