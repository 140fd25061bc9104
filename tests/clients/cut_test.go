//go:build clients

package clients

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/tests/harness"
)

var versions = []string{"0", "1", "2"}

// newLarge starts packbase with the package large, which takes a while to be
// sent: size bytes that do not compress.
func newLarge(t testing.TB, size int, env ...string) *harness.Server {
	t.Helper()
	r := harness.NewUpstream(t).Repo("large")
	content := make([]byte, size)
	rand.NewChaCha8([32]byte{2}).Read(content)
	r.Tag("v1.0.0", r.Commit(harness.Files{"data.bin": string(content)}))
	s := harness.Start(t, env...)
	s.Fetch(r.URL)
	return s
}

// A clone that is cut at any byte fails, leaves nothing that looks like a
// clone, and costs the server nothing afterwards.
func TestCut(t *testing.T) {
	const size, cuts = 16 << 20, 50
	s := newLarge(t, size, "PACKBASE_ADMIN_ADDR=127.0.0.1:0")
	link := harness.NewLink(t, s.URL)
	dir := t.TempDir()
	for _, v := range versions {
		if out, err := git(t, v, "clone", "-q", link.URL+"/large", filepath.Join(dir, "whole"+v)); err != nil {
			t.Fatal(out, err)
		}
	}
	measure(t, s) // what the first one costs stays
	before := measure(t, s)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range cuts {
		after := random.Int64N(size)
		if i%5 == 0 {
			after = random.Int64N(1500) // among the refs, or before the pack
		}
		link.Leave(after)
		clone := filepath.Join(dir, strconv.Itoa(i))
		if _, err := git(t, versions[i%len(versions)], "clone", "-q", link.URL+"/large", clone); err == nil {
			// Of a server that goes away within the first HTTP header, libcurl and
			// git make an empty repository.
			if refs, err := git(t, "0", "-C", clone, "for-each-ref"); refs != "" || err != nil || after > 500 {
				t.Errorf("clone cut after %d bytes: no error, refs %q, %v", after, refs, err)
			}
			continue
		}
		if _, err := os.Lstat(clone); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("clone cut after %d bytes: its folder is there, %v", after, err)
		}
	}
	ended := time.Now()
	harness.Eventually(t, fmt.Sprintf("packbase uses no more than %v", before), func() bool {
		now := measure(t, s)
		t.Logf("%v after the last cut: %v", time.Since(ended).Round(time.Millisecond), now)
		return now.files <= before.files && now.connections <= before.connections && now.goroutines <= before.goroutines
	})
	if d := time.Since(ended); d > 5*time.Second {
		t.Errorf("packbase freed what the clones used after %v, want 5 s at most", d)
	}
}

// A use is what the api process uses.
type use struct {
	goroutines  int
	files       int // open ones below its root
	connections int // of its listener
}

func measure(t testing.TB, s *harness.Server) use {
	t.Helper()
	var u use
	admin := ""
	port := s.URL[strings.LastIndexByte(s.URL, ':')+1:]
	open := openFiles(t, s.API.PID())
	for _, socket := range sockets(t) {
		switch {
		case socket.port == port && socket.state != timeWait && socket.state != listening:
			u.connections++
		case socket.port != port && socket.state == listening && slices.Contains(open, "socket:["+socket.inode+"]"):
			admin = "http://127.0.0.1:" + socket.port
		}
	}
	for _, file := range open {
		if strings.HasPrefix(file, s.Root) {
			u.files++
		}
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get(admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	metrics, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^go_goroutines (\d+)$`).FindSubmatch(metrics)
	if found == nil {
		t.Fatalf("no go_goroutines in %s", metrics)
	}
	u.goroutines, _ = strconv.Atoi(string(found[1]))
	return u
}

// openFiles returns the targets of a process's descriptors.
func openFiles(t testing.TB, pid int) (targets []string) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		target, _ := os.Readlink(filepath.Join(dir, e.Name())) // "" if it was closed meanwhile
		targets = append(targets, target)
	}
	return targets
}

type socket struct{ port, state, inode string }

// States of sockets.
const (
	timeWait  = "06"
	listening = "0A"
)

// sockets returns the TCP sockets of this machine.
// proc_pid_net(5), "/proc/net/tcp".
func sockets(t testing.TB) (all []socket) {
	t.Helper()
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		table, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(table)) {
			f := strings.Fields(line)
			_, port, ok := strings.Cut(f[1], ":")
			if !ok {
				continue // the heading
			}
			n, err := strconv.ParseUint(port, 16, 16)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, socket{strconv.FormatUint(n, 10), f[3], f[9]})
		}
	}
	return all
}
