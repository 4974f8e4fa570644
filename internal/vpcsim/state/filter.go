package state

import (
	"net/netip"
	"path"
	"slices"
	"strings"
)

// is reports whether a filter is absent or equals the value.
func is(filter, value string) bool { return filter == "" || filter == value }

// isBool is the same for booleans; isNot is for values that nothing here has.
func isBool(filter *bool, value bool) bool { return filter == nil || *filter == value }
func isNot(filter *bool) bool              { return isBool(filter, false) }

// isName is the same for names, with "*" as a wildcard.
func isName(filter, value string) bool {
	if !strings.Contains(filter, "*") {
		return is(filter, value)
	}
	ok, err := path.Match(strings.ReplaceAll(filter, "?", "\\?"), strings.ReplaceAll(value, "/", "_"))
	return err == nil && ok
}

// isOneOf reports whether a filter list is empty or contains the value.
func isOneOf(filter []string, value string) bool {
	return len(filter) == 0 || slices.Contains(filter, value)
}

// list splits the comma-separated ids of VPC's Describe actions.
func list(s string) []string {
	var all []string
	for _, part := range strings.Split(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			all = append(all, part)
		}
	}
	return all
}

// hasTags reports whether a resource has all tags of a filter; an empty value matches any.
func hasTags(filter, tags []Tag) bool {
	for _, want := range filter {
		found := slices.ContainsFunc(tags, func(t Tag) bool {
			return t.Key == want.Key && (want.Value == "" || t.Value == want.Value)
		})
		if !found {
			return false
		}
	}
	return true
}

// hasAddress reports whether an ENI has one of the given addresses; an empty filter matches.
func hasAddress(eni *NetworkInterface, filter []netip.Addr) bool {
	if len(filter) == 0 {
		return true
	}
	return slices.ContainsFunc(filter, func(a netip.Addr) bool {
		return slices.Contains(eni.PrivateIpAddresses, a) || slices.Contains(eni.Ipv6Addresses, a) ||
			slices.ContainsFunc(eni.Ipv4Prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
	})
}

// parseAddrs parses a list of addresses of one family (4 or 6).
func parseAddrs(parameter string, codes addressCodes, family int, texts []string) ([]netip.Addr, error) {
	addrs := make([]netip.Addr, 0, len(texts))
	for _, text := range texts {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Is4() != (family == 4) || a.Zone() != "" {
			return nil, codes.Malformed.because("The specified parameter %q is not valid: %q, expected an IPv%d address.", parameter, text, family)
		}
		if slices.Contains(addrs, a) {
			if codes.Repeated.Code == "" {
				continue
			}
			return nil, codes.Repeated.because("Specified private IP address is duplicated: %s.", a)
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}
