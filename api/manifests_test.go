package api_test

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// Clients that begin to send large manifests, and go no further, take some megabytes and no more: the others are told to
// come again. Small ones have room all the time.
func TestStalledManifests(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	const clients = 20
	for _, framing := range []string{"Content-Length: 1900000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\nfffff\r\n"} {
		g := g.serve()
		refused := make(chan bool, clients)
		for range clients {
			c, err := net.Dial("tcp", g.addr)
			g.must(err)
			t.Cleanup(func() { c.Close() })
			g.must(c.SetDeadline(time.Now().Add(30 * time.Second)))
			go func() {
				_, _ = io.WriteString(c, "POST /api/bundle HTTP/1.1\r\nHost: x\r\n"+framing+strings.Repeat(" ", 500_000)) // it may be cut
				answer, _ := io.ReadAll(io.LimitReader(c, 12))
				refused <- string(answer) == "HTTP/1.1 503"
			}()
		}
		for i := range clients - 1 { // all are one client's, who has room for one
			if !<-refused {
				t.Fatalf("%q: of %d large bodies that do not end %d are refused", framing, clients, i)
			}
		}
		const small = `{"manifests":[{"file":"build.zig.zon","text":".{.name=\"x\",.version=\"1.0.0\",.paths=.{\"\"}}"}]}`
		if a := g.do("POST", "/api/bundle", small); a.StatusCode != 200 {
			t.Errorf("%q: a small body meanwhile: %d %s", framing, a.StatusCode, a.body)
		}
	}
}
