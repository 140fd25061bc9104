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
// them a URL in absolute form is our own only by an address of this machine and the port that we listen on, and any
// Host is, but for those of which foreign says that packages come from there.
func Own(names []string, port string, foreign func(host string) bool) func(host string, absolute bool) bool {
	return func(host string, absolute bool) bool {
		host = strings.ToLower(host)
		bare, at, err := net.SplitHostPort(host)
		if err != nil {
			bare, at = strings.Trim(host, "[]"), ""
		}
		switch {
		case slices.Contains(names, host), slices.Contains(names, bare):
			return true
		case isHere(bare):
			return !absolute || at == port || at == "" && port == "80"
		case len(names) > 0 || absolute:
			return false
		}
		return !foreign(host)
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
