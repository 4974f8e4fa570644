package fastpath

import (
	"net/netip"
	"testing"
)

func TestWords(t *testing.T) {
	for _, s := range []string{"192.168.32.5", "2001:db8:1::5", "0.0.0.0", "::"} {
		a := netip.MustParseAddr(s)
		if got := Addr(Words(a)); got != a {
			t.Errorf("%s becomes %s", a, got)
		}
	}
	if w := Words(netip.MustParseAddr("1.2.3.4")); w[0] != 0 || w[1] != 0 || w[2] != Words(netip.MustParseAddr("::ffff:0:0"))[2] {
		t.Errorf("an IPv4 address is %x", w)
	}
}
