package api

import (
	"net/http"
	"net/netip"
	"testing"
)

func TestClientOf(t *testing.T) {
	t.Parallel()
	s := &Server{opt: Options{Proxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}}}
	for _, tt := range []struct {
		peer string
		via  []string // X-Forwarded-For
		want string
	}{
		{"192.0.2.1:1234", nil, "192.0.2.1"},
		{"192.0.2.1:1234", []string{"198.51.100.9"}, "192.0.2.1"}, // anybody can say that
		{"10.0.0.1:1234", nil, "10.0.0.1"},
		{"10.0.0.1:1234", []string{"198.51.100.9"}, "198.51.100.9"},
		{"[::ffff:10.0.0.1]:1234", []string{"198.51.100.9"}, "198.51.100.9"},
		{"10.0.0.1:1234", []string{"203.0.113.5, 198.51.100.9"}, "198.51.100.9"}, // and the client can say this
		{"10.0.0.1:1234", []string{"203.0.113.5, 198.51.100.9,10.0.0.2"}, "198.51.100.9"},
		{"10.0.0.1:1234", []string{"203.0.113.5", "198.51.100.9", "10.0.0.2"}, "198.51.100.9"},
		{"10.0.0.1:1234", []string{"10.0.0.3"}, "10.0.0.3"},
		{"10.0.0.1:1234", []string{"nonsense"}, "10.0.0.1"},
		{"10.0.0.1:1234", []string{"198.51.100.9, nonsense, 10.0.0.2"}, "10.0.0.2"},
		{"10.0.0.1:1234", []string{""}, "10.0.0.1"},
		{"[2001:db8::1]:1", nil, "2001:db8::/64"},
		{"[2001:db8::2%eth0]:1", nil, "2001:db8::/64"},
		{"[fd00::1]:1", []string{"2001:db8:0:1:2::"}, "2001:db8:0:1::/64"},
	} {
		r := &http.Request{RemoteAddr: tt.peer, Header: http.Header{"X-Forwarded-For": tt.via}}
		if got := s.clientOf(r); got != tt.want {
			t.Errorf("%s via %q = %s, want %s", tt.peer, tt.via, got, tt.want)
		}
	}
}
