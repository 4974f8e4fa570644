package state

import (
	"fmt"
	"math/rand/v2"
)

// newID generates an id like the service: "bp1" (Hangzhou) and 17 more characters.
func (s *State) newID(prefix string) string {
	const letters = "0123456789abcdefghijklmnopqrstuvwxyz"
	r := rand.New(s.rng)
	id := []byte(prefix + "bp1")
	for range 17 {
		id = append(id, letters[r.IntN(len(letters))])
	}
	return string(id)
}

// newSerial generates a machine's serial number, a UUID.
func (s *State) newSerial() string {
	hi, lo := s.rng.Uint64(), s.rng.Uint64()
	return fmt.Sprintf("%08x-%04x-%04x-%04x-%012x",
		hi>>32, hi>>16&0xffff, hi&0x0fff|0x4000, lo>>48&0x3fff|0x8000, lo&0xffffffffffff)
}

// newMAC generates an unused MAC address with the service's vendor prefix.
func (s *State) newMAC() string {
	for {
		n := s.rng.Uint64()
		mac := fmt.Sprintf("00:16:3e:%02x:%02x:%02x", n>>16&0xff, n>>8&0xff, n&0xff)
		if !s.index.macs[mac] {
			return mac
		}
	}
}
