package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// An Allow opens a place that the address rules close: every address of
// Prefix, or one host whatever address its name has. [ParseAllow] makes it.
type Allow struct {
	Prefix netip.Prefix // if Host is empty
	Host   string       // name in lower case
	Port   uint16       // 0 for every port; with a Host always set
}

// ParseAllow reads the form of PACKBASE_UPSTREAM_ALLOW: entries separated by
// commas, each a CIDR, which opens all ports (10.1.0.0/16), a CIDR and a port
// (10.1.0.0/16:3000, [fd00::/8]:3000), or a host or address and a port
// (git.example.org:8443, [fd00::1]:443). The error names the wrong entry.
func ParseAllow(s string) ([]Allow, error) {
	var list []Allow
	for entry := range strings.SplitSeq(s, ",") {
		if entry = strings.TrimSpace(entry); entry == "" {
			continue
		}
		a, err := parseAllow(entry)
		if err != nil {
			return nil, fmt.Errorf("allowed upstream %q: %w", entry, err)
		}
		list = append(list, a)
	}
	return list, nil
}

func parseAllow(entry string) (Allow, error) {
	if prefix, err := parsePrefix(entry); err == nil {
		return Allow{Prefix: prefix}, nil
	}
	i := strings.LastIndexByte(entry, ':')
	if i < 0 || strings.HasSuffix(entry, "]") {
		return Allow{}, errors.New("neither CIDR, CIDR:port nor host:port")
	}
	port, err := strconv.ParseUint(entry[i+1:], 10, 16)
	if err != nil || port == 0 {
		return Allow{}, fmt.Errorf("port %q is not a number from 1 to 65535", entry[i+1:])
	}
	host := entry[:i]
	bare, bracketed := strings.CutPrefix(host, "[")
	if bracketed {
		host, bracketed = strings.CutSuffix(bare, "]")
	}
	if strings.Contains(host, ":") && !bracketed {
		return Allow{}, errors.New("IPv6 needs brackets before a port")
	}
	a := Allow{Port: uint16(port)}
	if strings.Contains(host, "/") {
		a.Prefix, err = parsePrefix(host)
		return a, err
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		a.Prefix, err = ip.Unmap().WithZone("").Prefix(ip.Unmap().BitLen())
		return a, err
	}
	a.Host = foldHost(host)
	if a.Host == "" || strings.Trim(a.Host, "abcdefghijklmnopqrstuvwxyz0123456789.-_") != "" {
		return Allow{}, fmt.Errorf("%q is not a host name", host)
	}
	return a, nil
}

// parsePrefix reads a CIDR. One of mapped IPv4 addresses would never match.
func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err == nil && p.Addr().Is4In6() {
		err = errors.New("write IPv4 ranges as IPv4")
	}
	return p.Masked(), err
}

// foldHost returns the one spelling of a host name.
func foldHost(host string) string {
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

type allowList []Allow

// opens reports whether an entry opens ip, which host resolved to, at port.
// The zero ip stands for an address not known yet.
func (l allowList) opens(host string, ip netip.Addr, port uint16) bool {
	for _, a := range l {
		if a.Port != 0 && a.Port != port {
			continue
		}
		if a.Host != "" && a.Host == foldHost(host) || a.Host == "" && a.Prefix.Contains(ip) {
			return true
		}
	}
	return false
}

// check judges the address that is about to be connected to for host. The
// error does not repeat the address: it would tell what a name means inside.
func (l allowList) check(host, address string) error {
	closed := func(what string) error {
		return &Error{Code: CodeAddress, Message: "upstream " + what + "; an operator can open it with PACKBASE_UPSTREAM_ALLOW"}
	}
	ap, err := netip.ParseAddrPort(address)
	if err != nil || ap.Addr().Zone() != "" {
		return closed("has an address of one link only")
	}
	ip, port := ap.Addr().Unmap(), ap.Port()
	switch {
	case l.opens(host, ip, port):
		return nil
	case !isPublic(ip):
		return closed("has a private or reserved address")
	case port != 80 && port != 443:
		return closed("has a port other than 80 and 443")
	}
	return nil
}

// Ranges that are not for the open internet: IANA's special-purpose address
// registries for IPv4 and IPv6, multicast, and class E.
var (
	reserved = prefixes(
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
		"192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16",
		"192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
		"2001::/23", // protocol assignments: Teredo, benchmarks, ORCHID
		"2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20",
	)
	globalUnicast = netip.MustParsePrefix("2000::/3")
	nat64         = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052
)

func prefixes(list ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range list {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

// isPublic reports whether ip, which is unmapped and has no zone, is for the
// open internet. An address of NAT64 is as public as the IPv4 address in it:
// a host with IPv6 only reaches the world through these.
func isPublic(ip netip.Addr) bool {
	if nat64.Contains(ip) {
		b := ip.As16()
		ip = netip.AddrFrom4([4]byte(b[12:]))
	}
	if ip.Is6() && !globalUnicast.Contains(ip) {
		return false
	}
	for _, p := range reserved {
		if p.Contains(ip) {
			return false
		}
	}
	return ip.IsValid()
}

// isAt reports whether open, a host as in a URL, is the host at that port.
func isAt(open, host, port string) bool {
	u := url.URL{Host: open}
	return foldHost(u.Hostname()) == foldHost(host) && (u.Port() == port || u.Port() == "" && (port == "80" || port == "443"))
}

// dial is the DialContext of every connection. The check is made on the
// address that the socket connects to, after the name was looked up, so that
// no answer of a name server can get around it.
func (c *Client) dial(ctx context.Context, network, hostport string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil, fmt.Errorf("split %q: %w", hostport, err)
	}
	if c.hosts != nil && !slices.ContainsFunc(c.hosts, func(open string) bool { return isAt(open, host, port) }) {
		return nil, &Error{Code: CodeRedirect, Message: "upstream redirects to a host that is not open for pulls (PACKBASE_PULL); somebody with a token can have it fetched"}
	}
	d := net.Dialer{
		Timeout: c.limits.Connect,
		Control: func(_, address string, _ syscall.RawConn) error {
			return c.allow.check(host, address)
		},
	}
	return d.DialContext(ctx, network, hostport)
}
