package worker_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/tree"
	"github.com/francescobianco/packbase/worker"
	"github.com/francescobianco/packbase/worker/upstream"
	"github.com/francescobianco/packbase/worker/workertest"
)

// A fileServer is an upstream of files, each with a handler of its own.
type fileServer struct {
	*httptest.Server
	mu    sync.Mutex
	files map[string]http.HandlerFunc
	asked atomic.Int32
}

func newFileServer(t *testing.T) *fileServer {
	f := &fileServer{files: map[string]http.HandlerFunc{}}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.asked.Add(1)
		f.mu.Lock()
		h := f.files[r.URL.Path]
		f.mu.Unlock()
		if h == nil {
			http.NotFound(w, r)
			return
		}
		h(w, r)
	}))
	t.Cleanup(f.Close)
	return f
}

// serve answers path with h, and returns the URL.
func (f *fileServer) serve(path string, h http.HandlerFunc) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.files[path] = h
	return f.URL + path
}

func sends(contentType string, body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Write(body)
	}
}

// allowed lets a worker dial loopback.
func allowed(t *testing.T) func(*worker.Options) {
	allow, err := upstream.ParseAllow("127.0.0.0/8")
	if err != nil {
		t.Fatal(err)
	}
	return func(o *worker.Options) { o.Egress.Allow = allow }
}

// fetchArchive has a running worker store what a URL answers.
func fetchArchive(t *testing.T, r *workertest.Registry, url, pin string) (jobs.Job, worker.ArchiveResult) {
	t.Helper()
	ctx := access.SeePrivate(t.Context())
	id, _, err := tree.New(r.DB.DB).RequestArchive(ctx, url, pin)
	r.Must(err)
	var job jobs.Job
	r.Eventually("the job of "+url+" has ended", func() bool {
		job, err = r.Jobs.ByID(ctx, id)
		r.Must(err)
		return !job.Open()
	})
	var result worker.ArchiveResult
	if job.State == jobs.Succeeded {
		r.Must(json.Unmarshal(job.Result, &result))
	}
	return job, result
}

const manifest = `.{ .name = .%s, .version = "1.0.0", .fingerprint = 0x%08x00000001, .minimum_zig_version = "0.14.0",
    .paths = .{""}, .dependencies = .{ .b = .{ .url = "https://h.example/b.tar.gz", .hash = "1220%064d" } } }`

func files(version string) map[string]string {
	return map[string]string{"build.zig.zon": fmt.Sprintf(manifest, "a", 0xe8b7be43, 1), "build.zig": "// " + version + "\n", "src/root.zig": "pub const x = 1;\n",
		"LICENSE": "SPDX-License-Identifier: ISC\n"}
}

func tarOf(t *testing.T, prefix string, files map[string]string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	names := append(slices.Sorted(maps.Keys(files)), "build.zig", "build.zig.zon", "src/root.zig")
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		body := files[name]
		if err := w.WriteHeader(&tar.Header{Name: prefix + name, Mode: 0o644, Size: int64(len(body)), Format: tar.FormatUSTAR}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, body)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func through(t *testing.T, body []byte, open func(io.Writer) (io.WriteCloser, error)) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := open(&buf)
	if err == nil {
		_, err = w.Write(body)
		err = cmp.Or(err, w.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func gz(t *testing.T, body []byte) []byte {
	return through(t, body, func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil })
}

func zipOf(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for name, body := range files {
		f, err := w.Create("a-1.0.0/" + name)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(f, body)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Whatever form the same files have, they get the hash that they have in Git, keep their bytes, and are given to Zig
// as a tar.gz.
func TestFetchArchive(t *testing.T) {
	t.Parallel()
	r, up := workertest.New(t), newFileServer(t)
	r.Work(allowed(t))
	r.Tag("a", "v1.0.0", files("one"))
	if job := r.Fetch("a"); job.State != jobs.Succeeded {
		t.Fatalf("fetch by Git: %s", job.ErrorMessage)
	}
	rel, err := r.ReleaseByTag(t.Context(), "a", "v1.0.0")
	r.Must(err)
	plain := tarOf(t, "a-1.0.0/", files("one"))
	trees := tree.New(r.DB.DB)
	for path, form := range map[string]struct {
		contentType string
		body        []byte
		verbatim    bool
		encoding    string
	}{
		"/a.tar.gz": {"application/gzip", gz(t, plain), true, ""},
		"/flat.tgz": {"application/octet-stream", gz(t, tarOf(t, "", files("one"))), true, ""},
		"/a.tar":    {"application/x-tar", plain, false, ""},
		"/encoded":  {"application/x-tar", gz(t, plain), true, "gzip"},
		"/a.zip":    {"application/zip", zipOf(t, files("one")), false, ""},
		"/a.tar.xz": {"application/x-xz", through(t, plain, func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) }), false, ""},
	} {
		url := up.serve(path, func(w http.ResponseWriter, r *http.Request) {
			if form.encoding != "" {
				w.Header().Set("Content-Encoding", form.encoding)
			}
			sends(form.contentType, form.body)(w, r)
		})
		job, got := fetchArchive(t, r, url, "")
		if job.State != jobs.Succeeded || !got.Created || got.LegacyHash != rel.ZigLegacyHash || got.ZigHash != rel.ZigHash {
			t.Errorf("%s: %s %s, %+v; want the hashes %s and %s", path, job.State, job.ErrorMessage, got, rel.ZigHash, rel.ZigLegacyHash)
			continue
		}
		row, err := trees.ByURL(t.Context(), url)
		r.Must(err)
		body, err := os.ReadFile(r.Path(row.Digest))
		if err != nil || !bytes.Equal(body, form.body) {
			t.Errorf("%s: the bytes are not kept as they came: %v", path, err)
		}
		if (row.TarballDigest == row.Digest) != form.verbatim {
			t.Errorf("%s: given to Zig as it came: %v, want %v", path, row.TarballDigest == row.Digest, form.verbatim)
		}
		if deps := row.Zig.Dependencies; len(deps) != 1 || deps[0].URL != "https://h.example/b.tar.gz" {
			t.Errorf("%s: dependencies %+v, want one", path, deps)
		}
		if row.Zig.License != "ISC" || rel.Zig.License != "ISC" {
			t.Errorf("%s: licences %q and %q, want ISC", path, row.Zig.License, rel.Zig.License)
		}
		raw, err := os.ReadFile(r.Path(row.RecordDigest))
		r.Must(err)
		if rec, err := tree.ParseRecord(raw); err != nil || rec.URL != url {
			t.Errorf("%s: record %s, %v", path, raw, err)
		}
	}
	before := up.asked.Load()
	if job, got := fetchArchive(t, r, up.URL+"/a.zip", ""); job.State != jobs.Succeeded || got.Created {
		t.Errorf("again: %s, %+v; want what is here", job.State, got)
	}
	if job, _ := fetchArchive(t, r, up.URL+"/nosuch", rel.ZigHash); job.State != jobs.Succeeded {
		t.Errorf("a hash that is here: %s %s", job.State, job.ErrorMessage)
	}
	if n := up.asked.Load() - before; n != 0 {
		t.Errorf("upstream was asked %d times for what is here", n)
	}
	// What an archive names is never swept.
	named, err := r.Scrub.Named(t.Context())
	r.Must(err)
	row, err := trees.ByURL(t.Context(), up.URL+"/a.zip")
	r.Must(err)
	for _, digest := range []string{row.Digest, row.TarballDigest, row.RecordDigest} {
		if _, ok := named[digest]; !ok {
			t.Errorf("the blob %s has no name", digest)
		}
	}
}

// Each trouble has its code, says what to do, and stores nothing.
func TestFetchArchiveRefused(t *testing.T) {
	t.Parallel()
	r, up := workertest.New(t), newFileServer(t)
	r.Limits.Tarball = 2 << 20
	r.Work(allowed(t))
	targz := gz(t, tarOf(t, "a/", files("one")))
	for i := range 7 {
		up.serve(fmt.Sprint("/hop", i), func(w http.ResponseWriter, r *http.Request) {
			if i == 0 {
				sends("application/gzip", targz)(w, r)
				return
			}
			http.Redirect(w, r, fmt.Sprint("/hop", i-1), http.StatusFound)
		})
	}
	to := func(url string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, url, http.StatusFound) }
	}
	var many bytes.Buffer // entries without content
	z := gzip.NewWriter(&many)
	w := tar.NewWriter(z)
	for range 400_001 {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "d/", Format: tar.FormatUSTAR}); err != nil {
			t.Fatal(err)
		}
	}
	z.Close()
	for _, tt := range []struct {
		name, code string
		answer     http.HandlerFunc
	}{
		{"hop5", "", nil},
		{"hop6", "upstream_redirect", nil},
		{"html", "not_an_archive", sends("text/html; charset=utf-8", []byte("<html>please log in"))},
		{"html.tar.gz", "not_an_archive", sends("application/gzip", []byte("<html>please log in"))},
		{"untyped", "not_an_archive", func(w http.ResponseWriter, _ *http.Request) { w.Header()["Content-Type"] = nil; w.Write(targz) }},
		{"missing", "upstream_not_found", http.NotFound},
		{"secret", "upstream_auth", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }},
		{"nothing", "upstream_refused", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }},
		{"limited", "upstream_rate_limited", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusTooManyRequests)
		}},
		{"broken", "upstream_unavailable", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }},
		{"short", "upstream_incomplete", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/gzip")
			w.Header().Set("Content-Length", fmt.Sprint(len(targz)+1))
			w.Write(targz)
		}},
		{"cut.tar.gz", "not_an_archive", sends("application/gzip", targz[:len(targz)/2])},
		{"private", "upstream_address", to("http://10.1.2.3/a.tar.gz")},
		{"odd", "upstream_redirect", to("ftp://h.example/a.tar.gz")},
		{"endless", "archive_too_large", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/gzip")
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}},
		{"large", "archive_too_large", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/gzip")
			w.Header().Set("Content-Length", fmt.Sprint(3<<20))
		}},
		{"bomb", "archive_too_large", sends("application/gzip", many.Bytes())},
		{"escape", "not_an_archive", sends("application/gzip", gz(t, tarOf(t, "../../", files("one"))))},
	} {
		if tt.answer != nil {
			up.serve("/"+tt.name, tt.answer)
		}
		job, _ := fetchArchive(t, r, up.URL+"/"+tt.name, "")
		if job.ErrorCode != tt.code || tt.code != "" && job.ErrorMessage == "" {
			t.Errorf("%s: %s %q: %s, want %q", tt.name, job.State, job.ErrorCode, job.ErrorMessage, tt.code)
		}
		if _, err := tree.New(r.DB.DB).ByURL(t.Context(), up.URL+"/"+tt.name); (err == nil) != (tt.code == "") {
			t.Errorf("%s: stored: %v", tt.name, err)
		}
	}
	if job, _ := fetchArchive(t, r, "http://192.168.7.7/a.tar.gz", ""); job.ErrorCode != "upstream_address" {
		t.Errorf("a private address: %q", job.ErrorCode)
	}
}

// A few kilobytes of an archive do not become a hundred megabytes of a tarball.
func TestFetchArchiveRatio(t *testing.T) {
	t.Parallel()
	r, up := workertest.New(t), newFileServer(t)
	r.Work(allowed(t), func(o *worker.Options) { o.Quota.Ratio = 300 })
	noise := randomText(64 << 10)
	for times, code := range map[int]string{200: "", 900: "quota_ratio"} {
		all := files("one")
		all["noise"] = strings.Repeat(noise, times)
		bomb := through(t, tarOf(t, "a/", all), func(w io.Writer) (io.WriteCloser, error) {
			return zstd.NewWriter(w, zstd.WithWindowSize(1<<20))
		})
		url := up.serve(fmt.Sprintf("/%d.tar.zst", times), sends("application/zstd", bomb))
		if job, _ := fetchArchive(t, r, url, ""); job.ErrorCode != code {
			t.Errorf("%d bytes that hold %d times %d: %q %s, want %q", len(bomb), times, len(noise), job.ErrorCode, job.ErrorMessage, code)
		}
	}
}

// What comes for a pinned hash and has another is not stored. A URL that changes is followed only by those who
// pin what it answers now; what it answered first stays.
func TestFetchArchivePinned(t *testing.T) {
	t.Parallel()
	r, up := workertest.New(t), newFileServer(t)
	r.Work(allowed(t))
	ctx, trees := t.Context(), tree.New(r.DB.DB)
	url := up.serve("/a.tar.gz", sends("application/gzip", gz(t, tarOf(t, "a/", files("one")))))
	_, one := fetchArchive(t, r, up.serve("/one.tar.gz", sends("application/gzip", gz(t, tarOf(t, "a/", files("one"))))), "")
	_, two := fetchArchive(t, r, up.serve("/two.tar.gz", sends("application/gzip", gz(t, tarOf(t, "a/", files("two"))))), "")
	poisoned := "1220" + strings.Repeat("5", 64)
	if job, _ := fetchArchive(t, r, url, poisoned); job.ErrorCode != "hash_mismatch" || !strings.Contains(job.ErrorMessage, poisoned) || !strings.Contains(job.ErrorMessage, one.ZigHash) {
		t.Errorf("wrong bytes: %s %s: %s, want hash_mismatch with both", job.State, job.ErrorCode, job.ErrorMessage)
	}
	if _, err := trees.ByURL(ctx, url); err == nil {
		t.Error("wrong bytes were stored under their URL")
	}
	if job, _ := fetchArchive(t, r, url, ""); job.State != jobs.Succeeded {
		t.Fatalf("unpinned: %s", job.ErrorMessage)
	}
	up.serve("/a.tar.gz", sends("application/gzip", gz(t, tarOf(t, "a/", files("three")))))
	if job, _ := fetchArchive(t, r, url, poisoned); job.ErrorCode != "hash_mismatch" {
		t.Errorf("moved: %s %s", job.State, job.ErrorCode)
	}
	moves, err := trees.Moves(ctx, url)
	if err != nil || len(moves) != 1 || moves[0].OldLegacyHash != one.LegacyHash {
		t.Fatalf("moves = %+v, %v, want one", moves, err)
	}
	three := moves[0].NewHash
	job, got := fetchArchive(t, r, url, three)
	if job.State != jobs.Succeeded || !got.Created || !got.Moved || got.ZigHash != three || three == two.ZigHash {
		t.Errorf("pinned to what it is now: %s %s, %+v", job.State, job.ErrorMessage, got)
	}
	if held, err := trees.ByURL(ctx, url); err != nil || held.ZigHash != one.ZigHash {
		t.Errorf("the URL = %s, %v, want what it answered first", held.ZigHash, err)
	}
	if src, err := trees.ByHash(ctx, three); err != nil || src.URL != url {
		t.Errorf("the new hash: %+v, %v", src, err)
	}
}

// A download that breaks off goes on where it was, if upstream can do that.
func TestFetchArchiveResumes(t *testing.T) {
	t.Parallel()
	r, up := workertest.New(t), newFileServer(t)
	r.Work(allowed(t))
	noisy := files("one")
	noisy["src/root.zig"] = randomText(600 << 10)
	targz := gz(t, tarOf(t, "a/", noisy))
	var mu sync.Mutex
	var ranges []string
	url := up.serve("/a.tar.gz", func(w http.ResponseWriter, req *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		ranges = append(ranges, req.Header.Get("Range"))
		w.Header().Set("Content-Type", "application/gzip")
		w.Header().Set("ETag", `"one"`)
		if len(ranges) < 3 {
			w = &cutWriter{ResponseWriter: w, left: 100 << 10}
		}
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(targz))
	})
	job, got := fetchArchive(t, r, url, "")
	mu.Lock()
	defer mu.Unlock()
	if job.State != jobs.Succeeded || job.Attempts != 1 || len(ranges) != 3 || ranges[0] != "" || !strings.HasPrefix(ranges[2], "bytes=") {
		t.Errorf("%s %s in %d attempts, asked for %q; want one with two resumes", job.State, job.ErrorMessage, job.Attempts, ranges)
	}
	if row, err := tree.New(r.DB.DB).ByURL(t.Context(), url); err != nil || row.Size != int64(len(targz)) || got.Size != row.Size {
		t.Errorf("%d bytes stored, %v, want %d", row.Size, err, len(targz))
	}
}

func randomText(n int) string {
	var b strings.Builder
	for x := uint64(88172645463325252); b.Len() < n; {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		fmt.Fprintf(&b, "// %x\n", x)
	}
	return b.String()
}

// A cutWriter breaks the connection after so many bytes.
type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Write(b []byte) (int, error) {
	if len(b) > c.left {
		c.ResponseWriter.Write(b[:c.left])
		http.NewResponseController(c.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= len(b)
	return c.ResponseWriter.Write(b)
}

// What needs credentials is private, and they go nowhere but where they belong.
// What strangers have pulled goes to no host that is not open for them, and gets no credentials; with a token both are as ever.
func TestPull(t *testing.T) {
	t.Parallel()
	r, up, second, third := workertest.New(t), newFileServer(t), newFileServer(t), newFileServer(t)
	netrc := filepath.Join(t.TempDir(), "netrc")
	r.Must(os.WriteFile(netrc, []byte("machine 127.0.0.1 login us password s3cret\n"), 0o600))
	r.Work(allowed(t), func(o *worker.Options) {
		o.Egress.Netrc, o.Pull = netrc, []string{strings.TrimPrefix(second.URL, "http://")}
	})
	targz := sends("application/gzip", gz(t, tarOf(t, "a/", files("one"))))
	var dialled atomic.Int32
	to := func(host *fileServer, path string) http.HandlerFunc {
		at := host.serve(path, func(w http.ResponseWriter, req *http.Request) { dialled.Add(1); targz(w, req) })
		return func(w http.ResponseWriter, req *http.Request) { http.Redirect(w, req, at, http.StatusFound) }
	}
	git := func(w http.ResponseWriter, req *http.Request) {
		if _, _, ok := req.BasicAuth(); ok {
			dialled.Add(1)
		}
		w.WriteHeader(http.StatusUnauthorized)
	}
	closed := func(w http.ResponseWriter, req *http.Request) {
		if _, _, ok := req.BasicAuth(); !ok {
			http.NotFound(w, req)
			return
		}
		dialled.Add(1)
		targz(w, req)
	}
	up.serve("/o/r/info/refs", git)
	for _, tt := range []struct {
		path    string
		handler http.HandlerFunc
		code    string // of a pull; "" if it succeeds
		dials   int32  // of what it must not, or may
	}{
		{"/open.tar.gz", to(second, "/x"), "", 1},
		{"/elsewhere.tar.gz", to(third, "/x"), upstream.CodeRedirect, 0},
		{"/round.tar.gz", to(second, "/y"), upstream.CodeRedirect, 0},
		{"/closed.tar.gz", closed, upstream.CodeNotFound, 0},
		{"git", nil, upstream.CodeAuth, 0},
	} {
		if tt.path == "/round.tar.gz" { // by a host that is open
			second.serve("/y", to(third, "/y"))
		}
		ctx, store := access.SeePrivate(t.Context()), tree.New(r.DB.DB)
		ended := func(id uuid.UUID, err error) (job jobs.Job) {
			r.Must(err)
			r.Eventually("the job has ended", func() bool {
				job, err = r.Jobs.ByID(ctx, id)
				r.Must(err)
				return !job.Open()
			})
			return job
		}
		var job jobs.Job
		request := func(pull bool) (uuid.UUID, error) {
			ask := store.RequestPull
			if !pull {
				ask = func(ctx context.Context, url string) (uuid.UUID, bool, error) {
					return store.RequestArchive(ctx, url, "")
				}
			}
			id, _, err := ask(ctx, up.URL+tt.path)
			return id, err
		}
		if tt.path == "git" {
			ref, err := name.ParseUpstream(up.URL + "/o/r")
			r.Must(err)
			request = func(pull bool) (uuid.UUID, error) {
				ask := r.RequestPull
				if !pull {
					ask = r.RequestFetch
				}
				job, _, err := ask(ctx, "r", ref)
				return job.ID, err
			}
		} else {
			up.serve(tt.path, tt.handler)
		}
		dialled.Store(0)
		if job = ended(request(true)); job.ErrorCode != tt.code || dialled.Load() != tt.dials {
			t.Errorf("%s pulled: %q %s, %d requests, want %q, %d", tt.path, job.ErrorCode, job.ErrorMessage, dialled.Load(), tt.code, tt.dials)
		}
		if tt.code == "" {
			continue
		}
		again, err := r.Jobs.Retry(ctx, job.ID)
		r.Must(err)
		if job = ended(again.ID, nil); (job.State != jobs.Succeeded && tt.path != "git") || dialled.Load() == 0 {
			t.Errorf("%s tried again by somebody with a token: %s, %d requests", tt.path, job.ErrorMessage, dialled.Load())
		}
		dialled.Store(0)
	}
}

func TestFetchPrivateArchive(t *testing.T) {
	t.Parallel()
	r, up, elsewhere := workertest.New(t), newFileServer(t), newFileServer(t)
	targz := gz(t, tarOf(t, "a/", files("one")))
	netrc := filepath.Join(t.TempDir(), "netrc")
	r.Must(os.WriteFile(netrc, []byte("machine 127.0.0.1 login us password s3cret\n"), 0o600))
	allow, err := upstream.ParseAllow(strings.TrimPrefix(up.URL, "http://") + ",127.0.0.0/8")
	r.Must(err)
	r.Work(func(o *worker.Options) { o.Egress.Allow, o.Egress.Netrc = allow, netrc })
	var leaked atomic.Bool
	final := elsewhere.serve("/final", func(w http.ResponseWriter, req *http.Request) {
		leaked.Store(req.Header.Get("Authorization") != "")
		sends("application/gzip", targz)(w, req)
	})
	open := up.serve("/open.tar.gz", func(w http.ResponseWriter, req *http.Request) {
		leaked.Store(leaked.Load() || req.Header.Get("Authorization") != "")
		sends("application/gzip", gz(t, tarOf(t, "a/", files("two"))))(w, req)
	})
	closed := up.serve("/closed.tar.gz", func(w http.ResponseWriter, req *http.Request) {
		if user, password, _ := req.BasicAuth(); user != "us" || password != "s3cret" {
			http.NotFound(w, req)
			return
		}
		http.Redirect(w, req, final+"?signature=abc", http.StatusFound)
	})
	trees := tree.New(r.DB.DB)
	for url, private := range map[string]bool{open: false, closed: true} {
		if job, _ := fetchArchive(t, r, url, ""); job.State != jobs.Succeeded {
			t.Fatalf("%s: %s", url, job.ErrorMessage)
		}
		row, err := trees.ByURL(access.SeePrivate(t.Context()), url)
		if err != nil || row.Private != private || strings.Contains(row.FinalURL, "signature") {
			t.Errorf("%s: private %v, final URL %q, %v", url, row.Private, row.FinalURL, err)
		}
	}
	if leaked.Load() {
		t.Error("credentials went where nobody asked for them")
	}
	if strings.Contains(r.Log.String(), "s3cret") {
		t.Error("the log has the password")
	}
}

// A URL that is here for all, and shows other files to those with credentials: neither pages nor the log tell of them.
func TestMovedToPrivate(t *testing.T) {
	t.Parallel()
	r, up := workertest.New(t), newFileServer(t)
	netrc := filepath.Join(t.TempDir(), "netrc")
	r.Must(os.WriteFile(netrc, []byte("machine 127.0.0.1 login us password s3cret\n"), 0o600))
	r.Work(allowed(t), func(o *worker.Options) { o.Egress.Netrc = netrc })
	var closed atomic.Bool
	url := up.serve("/a.tar.gz", func(w http.ResponseWriter, req *http.Request) {
		_, _, ok := req.BasicAuth()
		switch {
		case !closed.Load():
			sends("application/gzip", gz(t, tarOf(t, "a/", files("one"))))(w, req)
		case ok:
			sends("application/gzip", gz(t, tarOf(t, "a/", files("two"))))(w, req)
		default:
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	if job, _ := fetchArchive(t, r, url, ""); job.State != jobs.Succeeded {
		t.Fatal(job.ErrorMessage)
	}
	closed.Store(true)
	job, _ := fetchArchive(t, r, url, "1220"+strings.Repeat("8", 64))
	_, pin, ok := strings.Cut(job.ErrorMessage, "(")
	if pin = strings.TrimSuffix(pin, ")"); job.ErrorCode != "hash_mismatch" || !ok {
		t.Fatalf("%s: %s", job.ErrorCode, job.ErrorMessage)
	}
	if job, got := fetchArchive(t, r, url, pin); job.State != jobs.Succeeded || !got.Created || !got.Moved {
		t.Fatalf("what is pinned: %+v, %s", got, job.ErrorMessage)
	}
	if moves, err := tree.New(r.DB.DB).Moves(t.Context(), url); err != nil || len(moves) != 0 {
		t.Errorf("strangers are told of %+v, %v", moves, err)
	}
	var told int
	r.Must(r.Pool.QueryRow(t.Context(), `SELECT count(*) FROM log_pending WHERE NOT private AND entry LIKE '%' || $1 || '%'`, pin).Scan(&told))
	if told != 0 {
		t.Errorf("the log has %d entries of what is private", told)
	}
}

// What comes of a pull of a private package is what would come of it if nothing were here: strangers are told.
func TestStrangersPullPrivatePackage(t *testing.T) {
	t.Parallel()
	r, up := workertest.New(t), newFileServer(t)
	up.serve("/o/r/info/refs", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
	r.Work(allowed(t))
	rel := r.Mirror("r", "v1.0.0", "v2.0.0")[0]
	ref, err := name.ParseUpstream(up.URL + "/o/r")
	r.Must(err)
	pull := func(pkg, target string) (jobs.Job, error) {
		ref := ref
		ref.Target = target
		job, _, err := r.RequestPull(t.Context(), pkg, ref)
		if err != nil {
			return job, err
		}
		r.Eventually("the job has ended", func() bool {
			job, err = r.Jobs.ByID(access.SeePrivate(t.Context()), job.ID)
			r.Must(err)
			return !job.Open()
		})
		return job, nil
	}
	want, err := pull("none", "v1.0.0")
	r.Must(err)
	for _, it := range [][2]string{
		{"private", `private = true`},
		{"lost", `private = true`},
		{"frozen", `private = true, state = 'frozen', state_reason = 'secret'`},
		{"removed", `private = true, state = 'removed', state_reason = 'secret'`},
	} {
		state, change := it[0], it[1]
		_, err := r.Pool.Exec(t.Context(), `UPDATE packages SET upstream = $1, clone_url = $1, `+change+` WHERE name = 'r'`, ref.Canonical)
		r.Must(err)
		if state == "lost" {
			rows, _ := r.Pool.Query(t.Context(), `SELECT digest FROM blobs`)
			digests, err := pgx.CollectRows(rows, pgx.RowTo[string])
			r.Must(err)
			for _, digest := range digests {
				r.Must(r.Blobs.Delete(t.Context(), digest))
			}
		}
		for _, target := range []string{"v1.0.0", rel.CommitOID, "v9"} {
			job, err := pull("r", target)
			if err != nil || job.ErrorCode != want.ErrorCode || job.ErrorMessage != want.ErrorMessage {
				t.Errorf("%s: %s: %s %s, %v, want %s %s", state, target, job.ErrorCode, job.ErrorMessage, err, want.ErrorCode, want.ErrorMessage)
			}
		}
		var failures int
		r.Must(r.Pool.QueryRow(t.Context(), `SELECT sync_failures FROM packages WHERE name = 'r'`).Scan(&failures))
		if failures != 0 {
			t.Errorf("%s: pulls count as %d failures of the package", state, failures)
		}
	}
}

// The same of private archives: those that upstream shows to nobody, and those that it shows to all by now.
func TestStrangersPullPrivateArchive(t *testing.T) {
	t.Parallel()
	r, up := workertest.New(t), newFileServer(t)
	netrc := filepath.Join(t.TempDir(), "netrc")
	r.Must(os.WriteFile(netrc, []byte("machine 127.0.0.1 login us password s3cret\n"), 0o600))
	r.Work(allowed(t), func(o *worker.Options) { o.Egress.Netrc = netrc })
	var open atomic.Bool
	closed := func(content string) http.HandlerFunc {
		return func(w http.ResponseWriter, req *http.Request) {
			if _, _, ok := req.BasicAuth(); !ok && !open.Load() {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			sends("application/gzip", gz(t, tarOf(t, "a/", files(content))))(w, req)
		}
	}
	here, none := up.serve("/here.tar.gz", closed("one")), up.serve("/none.tar.gz", closed("two"))
	ctx, trees := access.SeePrivate(t.Context()), tree.New(r.DB.DB)
	pull := func(url string) (job jobs.Job) {
		id, _, err := trees.RequestPull(t.Context(), url)
		r.Must(err)
		r.Eventually("the job has ended", func() bool {
			job, err = r.Jobs.ByID(ctx, id)
			r.Must(err)
			return !job.Open()
		})
		return job
	}
	if job, _ := fetchArchive(t, r, here, ""); job.State != jobs.Succeeded {
		t.Fatal(job.ErrorMessage)
	}
	want := pull(none)
	if want.ErrorCode != upstream.CodeAuth {
		t.Fatalf("what is not here: %s %s", want.ErrorCode, want.ErrorMessage)
	}
	for _, state := range []string{"private", "removed"} {
		if state == "removed" {
			_, err := trees.Remove(ctx, here, "secret")
			r.Must(err)
		}
		for _, shows := range []bool{false, true} {
			open.Store(shows)
			if job := pull(here); job.ErrorCode != want.ErrorCode || job.ErrorMessage != want.ErrorMessage {
				t.Errorf("%s, shown by upstream %v: %s %s %s, want %s %s", state, shows, job.State, job.ErrorCode, job.ErrorMessage, want.ErrorCode, want.ErrorMessage)
			}
		}
	}
	if job := pull(none); job.State != jobs.Succeeded {
		t.Errorf("what upstream shows by now, and is not here: %s", job.ErrorMessage)
	}
}
