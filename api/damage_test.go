package api_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// spoil writes other bytes to a blob, as a disk or a person might, and returns
// what puts the right ones back.
func (g *registry) spoil(digest string, change func([]byte) []byte) (undo func()) {
	g.t.Helper()
	path := filepath.Join(g.dir, "blobs", digest[:2], digest)
	right, err := os.ReadFile(path)
	g.must(err)
	g.must(os.Chmod(path, 0o644))
	g.must(os.WriteFile(path, change(bytes.Clone(right)), 0o644))
	return func() { g.must(os.WriteFile(path, right, 0o644)) }
}

func flipLast(b []byte) []byte { b[len(b)-1] ^= 1; return b }

// whole returns the answer's bytes if it is a complete 200 or 206.
func (g *registry) whole(path string, header ...string) (body []byte, status int, ok bool) {
	g.t.Helper()
	req, err := http.NewRequestWithContext(g.t.Context(), http.MethodGet, g.url+path, nil)
	g.must(err)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := transport.RoundTrip(req)
	g.must(err)
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	if resp.StatusCode >= 400 && (resp.Header.Get("ETag") != "" || resp.Header.Get("Cache-Control") != "no-store") {
		g.t.Errorf("GET %s: %d with ETag %q and Cache-Control %q", path, resp.StatusCode, resp.Header.Get("ETag"), resp.Header.Get("Cache-Control"))
	}
	return body, resp.StatusCode, err == nil && resp.StatusCode < 300
}

// Bytes that are damaged on the disk are never a complete answer, whoever has
// read them before, by whatever path they are asked for; and the workers learn
// of them.
func TestDamagedBytesAreNotServed(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	large := make([]byte, 24<<20) // beyond what is read before it is sent
	_, err := rand.Read(large)
	g.must(err)
	hello := g.publish("hello", tagged{tag: "v1.0.0", files: zon("hello", "1.0.0")}, tagged{branch: "main", files: files{"a.txt": "of a branch"}})
	big := g.publish("big", tagged{tag: "v1.0.0", files: files{"data": string(large)}})[0]

	for _, tt := range []struct {
		name, digest string
		paths        []string
	}{
		{"tarball", hello[0].Digest, []string{"/p/hello/tag/v1.0.0.tar.gz", "/p/hello/commit/" + hello[0].CommitOID + ".tar.gz",
			"/z/" + hello[0].ZigHash + ".tar.gz", "/z/" + hello[0].ZigLegacyHash + ".tar.gz", "/api/blobs/" + hello[0].Digest}},
		{"tarball of a branch", hello[1].Digest, []string{"/p/hello/branch/main.tar.gz"}},
		{"manifest", hello[0].ManifestDigest, []string{"/p/hello/tag/v1.0.0.json", "/api/blobs/" + hello[0].ManifestDigest}},
		{"large tarball", big.Digest, []string{"/p/big/tag/v1.0.0.tar.gz", "/api/blobs/" + big.Digest}},
	} {
		for _, change := range []struct {
			name string
			do   func([]byte) []byte
		}{
			{"flip", flipLast},
			{"first byte", func(b []byte) []byte { b[0] ^= 1; return b }},
			{"cut", func(b []byte) []byte { return b[:len(b)-1] }},
			{"longer", func(b []byte) []byte { return append(b, 0) }},
			{"empty", func([]byte) []byte { return nil }},
		} {
			for _, known := range []bool{false, true} {
				on := g
				if !known {
					on = g.serve() // has read nothing yet
				}
				for _, path := range tt.paths {
					name := fmt.Sprintf("%s, %s, read before %v: %s", tt.name, change.name, known, path)
					right, _, ok := on.whole(path)
					if !known {
						on = g.serve()
					} else if !ok {
						t.Fatalf("%s: not served before", name)
					}
					undo := g.spoil(tt.digest, change.do)
					if known { // the right bytes may be in memory for a moment
						eventually(t, name+": the damage shows", func() bool {
							_, _, ok := on.whole(path)
							return !ok
						})
					}
					for _, header := range [][]string{nil, {"Range", "bytes=0-9"}, nil} {
						if body, status, ok := on.whole(path, header...); ok {
							t.Errorf("%s: %v: a complete %d of %d bytes", name, header, status, len(body))
						}
					}
					if known {
						if a := on.get(path); a.StatusCode != http.StatusServiceUnavailable || a.code() != "damaged" || a.Header.Get("Retry-After") == "" {
							t.Errorf("%s: %d %s, want 503 and damaged", name, a.StatusCode, a.body)
						}
						if a := on.do(http.MethodHead, path, ""); a.StatusCode == http.StatusOK && len(right) < 16<<20 {
							t.Errorf("%s: HEAD answers 200", name)
						}
					}
					undo()
					if body, _, ok := on.whole(path); !ok || !bytes.Equal(body, right) {
						t.Errorf("%s: not served again once it was right", name)
					}
					if body, status, ok := on.whole(path, "Range", "bytes=1-9"); !ok || status != http.StatusPartialContent || !bytes.Equal(body, right[1:10]) {
						t.Errorf("%s: no range once it was right", name)
					}
				}
			}
		}
		due, err := g.db.Scrub.Due(t.Context(), 10)
		g.must(err)
		if len(due) != 1 || due[0].Digest != tt.digest {
			t.Errorf("%s: the workers were told of %v, want %s", tt.name, due, tt.digest)
		}
		g.must(g.db.Scrub.Checked(t.Context(), tt.digest, time.Now()))
	}
}

// Git's objects are not served from a damaged segment, whatever combination of
// them is asked for, and neither by who has not read its index yet.
func TestDamagedSegmentIsNotServed(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	g.publish("hello", tagged{tag: "v1.0.0", files: zon("hello", "1.0.0")}, tagged{tag: "v2.0.0", files: files{"a.txt": strings.Repeat("a", 9999)}})
	segments, err := g.db.Segments(t.Context(), "hello")
	g.must(err)
	clone := func(on *registry) error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, "git", "clone", "-q", "--mirror", on.url+"/hello", t.TempDir()+"/clone").CombinedOutput()
		if err != nil && strings.Contains(string(out), "internal") {
			t.Errorf("clone: %s", out)
		}
		return err
	}
	g.must(clone(g))
	for name, digest := range map[string]string{"segment": segments[0].Digest, "index": segments[0].IndexDigest} {
		for _, known := range []bool{false, true} {
			if name == "index" && known {
				continue // it is in memory, and right
			}
			on := g
			if !known {
				on = g.serve()
			}
			undo := g.spoil(digest, func(b []byte) []byte { b[len(b)/2] ^= 0x10; return b })
			if clone(on) == nil {
				t.Errorf("%s, read before %v: a clone succeeded", name, known)
			}
			undo()
			if err := clone(on); err != nil {
				t.Errorf("%s, read before %v: not served again once it was right: %v", name, known, err)
			}
		}
	}
}

// What is lost is told from a store that is away.
func TestLostBlob(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	rel := g.publish("hello", tagged{tag: "v1.0.0", files: zon("hello", "1.0.0")})[0]
	path := filepath.Join(g.dir, "blobs", rel.Digest[:2], rel.Digest)
	if a := g.get("/p/hello/tag/v1.0.0.tar.gz"); a.StatusCode != http.StatusOK {
		t.Fatalf("before: %d", a.StatusCode)
	}
	g.must(os.Remove(path))
	if a := g.get("/p/hello/tag/v1.0.0.tar.gz"); a.StatusCode != http.StatusServiceUnavailable || a.code() != "damaged" {
		t.Errorf("lost: %d %s", a.StatusCode, a.body)
	}
	due, err := g.db.Scrub.Due(t.Context(), 10)
	g.must(err)
	if len(due) != 1 || due[0].Digest != rel.Digest {
		t.Errorf("the workers were told of %v", due)
	}
	g.must(g.db.Scrub.Checked(t.Context(), rel.Digest, time.Now()))
	g.must(os.Rename(filepath.Join(g.dir, "blobs"), filepath.Join(g.dir, "away")))
	if a := g.get("/p/hello/tag/v1.0.0.tar.gz"); a.StatusCode != http.StatusServiceUnavailable || a.code() != "storage_unavailable" {
		t.Errorf("away: %d %s", a.StatusCode, a.body)
	}
	if due, err = g.db.Scrub.Due(t.Context(), 10); err != nil || len(due) != 0 {
		t.Errorf("away: the workers were told of %v (%v)", due, err)
	}
}
