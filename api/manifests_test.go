package api_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage/tree"
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

// The list of a tree's holes counts while its client reads it, or does not: others are told to come again, and small ones
// have room.
func TestStalledHoles(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	g = g.serve()
	var hashes []string
	var nodes []tree.Node
	for i := range 3000 {
		hashes = append(hashes, fmt.Sprintf("1220%064x", i))
		nodes = append(nodes, tree.Node{Hash: hashes[i], URLs: []string{"https://h/x"}, Parents: []string{""}, State: tree.Hole, Code: "gone", Reason: strings.Repeat("x", 2500)})
	}
	trees := tree.New(g.db.DB)
	c, err := trees.Begin(t.Context(), "holes", []tree.Root{{File: "build.zig.zon", Text: asManifest(hashes...)}}, false)
	g.must(err)
	g.must(trees.Put(t.Context(), "holes", c.Revision, tree.Holes, nodes, nil))
	ask := func() (status string, end func()) {
		c, err := net.Dial("tcp", g.addr)
		g.must(err)
		g.must(c.(*net.TCPConn).SetReadBuffer(4 << 10))
		g.must(c.SetDeadline(time.Now().Add(time.Minute)))
		_, err = io.WriteString(c, "GET /api/trees/holes/bundle HTTP/1.1\r\nHost: x\r\n\r\n")
		g.must(err)
		answer := make([]byte, 12)
		_, err = io.ReadFull(c, answer)
		g.must(err)
		return string(answer[9:]), func() { c.Close() }
	}
	first, end := ask()
	second, _ := ask()
	if first != "409" || second != "503" {
		t.Errorf("a client that does not read 7 MB of holes: %s, another one: %s; want 409 and 503", first, second)
	}
	if a := g.do("POST", "/api/bundle", asBody(t, wire.WantBundle{Manifests: manifests(asManifest(goneHash))})); a.StatusCode != 409 {
		t.Errorf("a small list meanwhile: %d %s", a.StatusCode, a.body)
	}
	end()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		status, end := ask()
		end()
		if status == "409" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after it has gone: %s", status)
		}
	}
}

// A tree of as many packages as there may be is answered, all of them holes; one more is refused.
func TestLargestTree(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	hashes := make([]string, 10_001)
	for i := range hashes {
		hashes[i] = fmt.Sprintf("1220%064x", i)
	}
	ask := func(n int) *answer {
		return g.do("POST", "/api/bundle", asBody(t, wire.WantBundle{Manifests: manifests(asManifest(hashes[:n]...))}))
	}
	var holes wire.Holes
	if a := ask(10_000); a.StatusCode != 409 || json.Unmarshal(a.body, &holes) != nil || len(holes.Holes) != 10_000 {
		t.Errorf("10,000 packages: %d with %d holes, %.200s", a.StatusCode, len(holes.Holes), a.body)
	}
	if a := ask(10_001); a.StatusCode != 422 || !strings.Contains(string(a.body), "tree_too_large") {
		t.Errorf("10,001 packages: %d %.200s", a.StatusCode, a.body)
	}
}

// Bad manifests are refused with the place, as Zig has it.
func TestBadManifests(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	for text, want := range map[string]string{
		".{\n  .name = .app,\n  .dependencies = oops,\n}": "build.zig.zon:3:19: expected dependencies expression to be a struct",
		".{ .name = \"a\" ": "build.zig.zon:1:",
		"":                  "build.zig.zon:1:",
	} {
		a := g.do("POST", "/api/bundle", asBody(t, wire.WantBundle{Manifests: manifests(text)}))
		if a.StatusCode != 400 || !strings.Contains(string(a.body), "manifest_invalid") || !strings.Contains(string(a.body), want) {
			t.Errorf("%q: %d %s, want %q", text, a.StatusCode, a.body, want)
		}
	}
}
