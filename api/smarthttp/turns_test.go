package smarthttp

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage/pktline"
)

// await polls until ok holds.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

func (t *turns) waiters() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.waiting)
}

func TestTurns(t *testing.T) {
	t.Parallel()
	turns := newTurns(4, 2, 3)
	acquire := func(client, pkg string) func() {
		t.Helper()
		end, err := turns.acquire(t.Context(), client, pkg, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		return end
	}
	refuse := func(client, pkg string) {
		t.Helper()
		if _, err := turns.acquire(t.Context(), client, pkg, time.Millisecond); err == nil {
			t.Errorf("a turn of %s at %s too many", client, pkg)
		}
	}
	ends := []func(){acquire("a", "p"), acquire("a", "p")}
	refuse("a", "q") // the client's
	ends = append(ends, acquire("b", "p"))
	refuse("b", "p") // the package's
	ends = append(ends, acquire("b", "q"))
	refuse("c", "r") // all
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := turns.acquire(gone, "c", "r", time.Minute); err == nil {
		t.Error("a turn for a client that is gone")
	}
	for _, end := range ends {
		end()
		end() // does nothing
	}
	if turns.running+turns.waiters()+len(turns.clients)+len(turns.packages)+len(turns.queued) != 0 {
		t.Errorf("left: %+v", turns)
	}
}

// The next turn is that of the client with the fewest, and of two that have as
// many, of the one that came first. Who cannot have it keeps nobody from it.
func TestTurnsAreFair(t *testing.T) {
	t.Parallel()
	turns := newTurns(5, 3, 5)
	type turn struct {
		client string
		end    func()
	}
	begun := make(chan turn, 1)
	acquire := func(client string) {
		end, err := turns.acquire(t.Context(), client, client, time.Minute)
		if err != nil {
			t.Error(err)
		}
		begun <- turn{client, end}
	}
	var running []turn
	for _, client := range []string{"greedy", "modest", "greedy", "modest", "greedy"} {
		acquire(client)
		running = append(running, <-begun)
	}
	for i, client := range []string{"greedy", "modest", "new", "modest", "newer"} {
		go acquire(client)
		await(t, client+" waits", func() bool { return turns.waiters() == i+1 })
	}
	var order []string
	for _, end := range []string{"greedy", "modest", "new", "newer", "greedy"} {
		i := slices.IndexFunc(running, func(r turn) bool { return r.client == end })
		if i < 0 {
			t.Fatalf("%s has no turn: order = %v", end, order)
		}
		running[i].end()
		next := <-begun
		running[i] = next
		order = append(order, next.client)
	}
	if want := []string{"new", "newer", "modest", "greedy", "modest"}; !slices.Equal(order, want) {
		t.Errorf("order = %v, want %v", order, want)
	}
}

// No more wait than could run.
func TestTurnsOverrun(t *testing.T) {
	t.Parallel()
	turns := newTurns(2, 1, 2)
	end, err := turns.acquire(t.Context(), "a", "", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	waited := make(chan error)
	go func() {
		end, err := turns.acquire(t.Context(), "a", "", time.Minute)
		if err == nil {
			end()
		}
		waited <- err
	}()
	await(t, "one waits", func() bool { return turns.waiters() == 1 })
	if _, err := turns.acquire(t.Context(), "a", "", time.Minute); err == nil {
		t.Error("as many wait as could run, and one more")
	}
	end()
	if err := <-waited; err != nil {
		t.Error(err)
	}
}

// largeBodies returns bodies of many MiB, as gzip makes them: few kB.
func largeBodies() (zipped [][]byte) {
	lines := []string{"command=fetch", pktline.Delim}
	for i := range 60_000 {
		lines = append(lines, fmt.Sprintf("have %040x", i), fmt.Sprintf("shallow %040x", i))
	}
	prefixes := many(240, "ref-prefix "+strings.Repeat("x", 60_000))
	for _, body := range [][]string{append(lines, pktline.Flush), append(append([]string{"command=ls-refs", pktline.Delim}, prefixes...), pktline.Flush)} {
		zipped = append(zipped, zip(pkt(body...)))
	}
	return zipped
}

// Bodies that are large once inflated, from clients that hold them open, take
// the memory of a few. It measures the heap, and so runs alone.
func TestLargeBodies(t *testing.T) {
	u := newUpstream(t)
	m := newMirror(t, u)
	for _, body := range largeBodies() {
		h := New(m, Options{Wait: time.Minute}, slog.New(slog.DiscardHandler))
		addr := strings.TrimPrefix(serveHandler(t, h), "http://")
		var before, during runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		const clients = 20
		for range clients {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprintf(conn, "POST /pkg/git-upload-pack HTTP/1.1\r\nHost: x\r\nGit-Protocol: version=2\r\nContent-Encoding: gzip\r\n"+
				"Content-Type: application/x-git-upload-pack-request\r\nContent-Length: %d\r\n\r\n%s", len(body), body[:len(body)-9])
		}
		// As many as may be read, and those that may wait for that.
		await(t, "some wait", func() bool { return h.bodies.waiters() == h.opts.ClientLargeBodies })
		time.Sleep(time.Second) // for those that are read to be read; less only makes the test see less
		runtime.GC()
		runtime.ReadMemStats(&during)
		if grown := int64(during.HeapAlloc) - int64(before.HeapAlloc); grown > 16<<20 {
			t.Errorf("%d clients take %d MiB", clients, grown>>20)
		}
		// Small ones are not held up.
		for _, v := range versions {
			if out, err := run(t, u.dir, "-c", "protocol.version="+v, "clone", "http://"+addr+"/pkg", t.TempDir()); err != nil {
				t.Errorf("clone: %v, %s", err, out)
			}
		}
	}
}
