package upstream

import (
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// EG-01, on the function that the dialer calls with the address it connects to.
func TestCheckAddress(t *testing.T) {
	t.Parallel()
	open := []string{
		"1.1.1.1:443", "8.8.8.8:80", "140.82.121.4:443", "[2606:4700::1111]:443", "[2a00:1450::1]:80",
		"[::ffff:8.8.8.8]:443", "[64:ff9b::808:808]:443", "172.15.255.255:443", "172.32.0.0:443",
		"100.63.255.255:443", "100.128.0.0:443", "192.0.1.0:443", "198.17.255.255:443", "223.255.255.255:80",
	}
	closed := []string{
		"127.0.0.1:80", "127.1.2.3:443", "0.0.0.0:80", "0.1.2.3:80", "10.0.0.1:80", "10.255.255.255:443",
		"100.64.0.1:80", "100.127.255.255:80", "169.254.169.254:80", "172.16.0.1:80", "172.31.255.255:80",
		"192.0.0.192:80", "192.0.0.170:80", "192.0.2.1:80", "192.88.99.1:80", "192.168.0.1:80",
		"198.18.0.1:80", "198.19.255.255:80", "198.51.100.1:80", "203.0.113.1:80",
		"224.0.0.1:80", "239.255.255.255:80", "240.0.0.1:80", "255.255.255.255:80",
		"[::]:80", "[::1]:80", "[::127.0.0.1]:80", "[::ffff:127.0.0.1]:80", "[::ffff:10.0.0.1]:80",
		"[::ffff:169.254.169.254]:80", "[::ffff:0:127.0.0.1]:80",
		"[64:ff9b::7f00:1]:80", "[64:ff9b::a9fe:a9fe]:80", "[64:ff9b::10.0.0.1]:443", "[64:ff9b:1::808:808]:80",
		"[2002:7f00:1::]:80", "[2002:808:808::]:80", "[2001::1]:80", "[2001:0:7f00:1::]:80", "[2001:2::1]:80",
		"[2001:db8::1]:80", "[3fff::1]:80", "[100::1]:80", "[5f00::1]:80",
		"[fc00::1]:80", "[fd00::1]:80", "[fe80::1]:80", "[fe80::1%lo]:80", "[fe80::1%25eth0]:80",
		"[2606:4700::1111%lo]:443", "[fec0::1]:80", "[ff02::1]:80",
		"8.8.8.8:22", "8.8.8.8:25", "8.8.8.8:6379", "8.8.8.8:5432", "8.8.8.8:8080", "8.8.8.8:0", "[2606:4700::1111]:8443",
		"127.0.0.1:6379", "", "8.8.8.8", "nonsense", "localhost:80",
	}
	for _, address := range open {
		if err := (allowList)(nil).check("h", address); err != nil {
			t.Errorf("%s: err = %v, want nil", address, err)
		}
	}
	for _, address := range closed {
		err := (allowList)(nil).check("h", address)
		if err == nil {
			t.Errorf("%s: err = nil, want %s", address, CodeAddress)
			continue
		}
		e := wantCode(t, err, CodeAddress)
		if host, _, _ := net.SplitHostPort(address); host != "" && strings.Contains(e.Message, host) {
			t.Errorf("%s: message %q tells the address", address, e.Message)
		}
	}
}

func TestCheckAllowed(t *testing.T) {
	t.Parallel()
	allow := allowList(parse(t, "10.1.0.0/16, 10.2.0.0/16:3000,Git.Example.org:8443,[fd00::/8]:3000,fd11::/16,192.168.1.1:80,[fd22::1]:99,[64:ff9b::/96]:81"))
	tests := []struct {
		host, address string
		open          bool
	}{
		{"h", "10.1.2.3:22", true},
		{"h", "[::ffff:10.1.2.3]:22", true},
		{"h", "10.2.2.3:3000", true},
		{"h", "10.2.2.3:80", false},
		{"h", "10.3.0.1:80", false},
		{"git.example.org", "10.9.9.9:8443", true},
		{"GIT.example.org.", "10.9.9.9:8443", true},
		{"git.example.org", "8.8.8.8:8443", true},
		{"git.example.org", "10.9.9.9:443", false},
		{"x.git.example.org", "10.9.9.9:8443", false},
		{"h", "[fd33::1]:3000", true},
		{"h", "[fd33::1]:80", false},
		{"h", "[fd11::1]:80", true},
		{"h", "[fd11::1%lo]:80", false},
		{"h", "192.168.1.1:80", true},
		{"h", "192.168.1.2:80", false},
		{"h", "[fd22::1]:99", true},
		{"h", "[64:ff9b::7f00:1]:81", true},
	}
	for _, tt := range tests {
		if err := allow.check(tt.host, tt.address); (err == nil) != tt.open {
			t.Errorf("%s at %s: err = %v, want open %v", tt.host, tt.address, err, tt.open)
		}
	}
}

func TestParseAllowErrors(t *testing.T) {
	t.Parallel()
	if a, err := ParseAllow(" , "); err != nil || len(a) != 0 {
		t.Errorf("empty list = %v, %v, want none", a, err)
	}
	for _, s := range []string{
		"10.0.0.1", "git.example.org", "git.example.org:", "git.example.org:0", "git.example.org:65536", "git.example.org:x",
		"10.0.0.0/33", "10.0.0.0/8:0", "10.0.0.0/x:80", "fd00::1:80", "[fd00::1]", "[fd00::1:80", "fd00::/8]:80",
		":80", "a b:80", "http://a:80", "a@b:80", "*.example.org:443", "-:80/8", "::ffff:10.0.0.0/104", "[::ffff:10.0.0.0/104]:80", "fd00::/8:80",
	} {
		_, err := ParseAllow("127.0.0.0/8," + s)
		if err == nil || !strings.Contains(err.Error(), `"`+s+`"`) {
			t.Errorf("%q: err = %v, want one that names it", s, err)
		}
	}
}

// EG-01 and EG-02, on the URL: none of these reaches a listener on loopback.
func TestClosedURLs(t *testing.T) {
	t.Parallel()
	canary, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer canary.Close()
	go func() {
		for conn, err := canary.Accept(); err == nil; conn, err = canary.Accept() {
			t.Errorf("connection from %v", conn.RemoteAddr())
			conn.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(canary.Addr().String())
	c := newClient(t, Options{Allow: []Allow{}, Limits: Limits{Connect: 2 * time.Second}})

	address := []string{
		"127.0.0.1", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::1]", "[::]", "0.0.0.0", "localhost", "LOCALHOST",
		"169.254.169.254", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
	}
	for _, host := range address {
		for _, scheme := range []string{"http", "https"} {
			_, err := c.Connect(t.Context(), scheme+"://"+host+":"+port+"/o/r")
			wantCode(t, err, CodeAddress)
		}
	}
	bad := []string{
		"", "hello", "/tmp/repo", "./repo", "file:///tmp/repo", "ssh://git@h/o/r", "git://h/o/r", "git+file:///r", "ftp://h/r",
		"git@h:o/r", "h:o/r", "-oProxyCommand=x", "--upload-pack=x", "ext::sh -c x", "http:", "http://", "https:///o/r", "http:o/r",
		"//h/o/r", "http://:80/o/r", "http://h:/o/r", "http://h:0/o/r", "http://h:99999999/o/r", "http://h:x/o/r", "http://h:-1/o/r",
		"http://u@h/o/r", "http://u:p@h/o/r", "http://@h/o/r", "http://h\\@127.0.0.1/o/r", "http://h/o\\r", "http://h/o/r?x=1", "http://h/o/r?",
		"http://h/o/r#v1", "http://h/o\tr", "http://h/o\r\nHost: x", " http://h/o/r", "http://h/o/r ", "http://h/o\x00r", "http://h/o\x7fr",
		"http://[fe80::1%25lo]/o/r", "http://[::1/o/r", "http://h/%2e%2e/r", "http://h%00/o/r", "http://127.0.0.1%2f@h/o/r",
	}
	for _, url := range bad {
		_, err := c.Connect(t.Context(), url)
		wantCode(t, err, CodeURL)
	}
	// Spellings that only some resolvers take for an address.
	for _, host := range []string{"localhost.", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1.", "①27.0.0.1"} {
		if _, err := c.Connect(t.Context(), "http://"+host+":"+port+"/o/r"); err == nil {
			t.Errorf("%s: err = nil", host)
		}
	}
	// EG-08: the client for other downloads has the same dialer.
	resp, err := c.HTTP().Get("http://" + canary.Addr().String())
	if err == nil {
		resp.Body.Close()
	}
	wantCode(t, err, CodeAddress)
}

// EG-04: what counts is the address behind the name, at the time of the dial.
func TestAllowedByName(t *testing.T) {
	t.Parallel()
	base, _ := newServer(t, listHandler("HEAD"))
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(base, "http://"))
	c := newClient(t, Options{Allow: parse(t, "localhost:"+port)})
	connect(t, c, "http://localhost:"+port+"/o/r")
	_, err := c.Connect(t.Context(), base+"/o/r")
	wantCode(t, err, CodeAddress)
}

func TestNoProxy(t *testing.T) {
	t.Parallel()
	c := New(Options{})
	if c.base.Proxy != nil {
		t.Error("a proxy is used")
	}
	if c.HTTP().Jar != nil || c.HTTP().Transport == http.DefaultTransport {
		t.Error("the download client has cookies or another transport")
	}
}
