package fabric

import "net"

// InNS runs fn inside a namespace.
func InNS(path string, fn func() error) error { return inNS(path, fn) }

// ListenPacketInNS opens a UDP socket in a namespace.
func ListenPacketInNS(path, address string) (conn net.PacketConn, err error) {
	err = inNS(path, func() (err error) {
		conn, err = net.ListenPacket("udp", address)
		return err
	})
	return conn, err
}
