package proxy

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// Own returns what Options.Own wants.
//
// names are the public names of this packbase, as clients call it; with them, every other Host is foreign. Without
// them a URL in absolute form is our own only by an address of this machine and the port that was asked, and any
// Host is, but for those of which foreign says that packages come from there.
func Own(names []string, foreign func(host string) bool) func(host string, port func() string, absolute bool) bool {
	return func(host string, port func() string, absolute bool) bool {
		host = strings.ToLower(host)
		if slices.Contains(names, host) || !absolute && len(names) == 0 && !foreign(host) {
			return true
		}
		bare, at, err := net.SplitHostPort(host)
		if err != nil {
			bare, at = strings.Trim(host, "[]"), ""
		}
		switch {
		case slices.Contains(names, bare):
			return true
		case !absolute, at == port(), at == "" && port() == "80":
			return isHere(bare)
		}
		return false
	}
}

// isHere tells whether a host is this machine, without asking anybody.
func isHere(host string) bool {
	if name, err := os.Hostname(); host == "localhost" || err == nil && host == strings.ToLower(name) {
		return true
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	if ip.IsLoopback() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(addrs, func(a net.Addr) bool {
		prefix, err := netip.ParsePrefix(a.String())
		return err == nil && prefix.Addr() == ip.Unmap()
	})
}
