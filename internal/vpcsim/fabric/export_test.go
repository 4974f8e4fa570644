package fabric

import (
	"net"

	"terway.dev/terway/internal/kernel"
)

// ListenPacketInNS opens a UDP socket in a namespace.
func ListenPacketInNS(path, address string) (conn net.PacketConn, err error) {
	err = kernel.InNSAt(path, func() (err error) {
		conn, err = net.ListenPacket("udp", address)
		return err
	})
	return conn, err
}
