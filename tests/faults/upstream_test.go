package faults

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"

	"packbase/tests/harness"
)

// maxChild is how much memory the process that reads upstream may take.
const maxChild = 512 << 20

// A hostileCase is a repository of a hostile upstream.
type hostileCase struct {
	name string
	// make returns the ref list's names and ids, and the pack.
	make func(p *packer) (refs []string, pack string)
	// want is the job's code. With one in brackets, that is the code that the
	// tag v9.9.9 is rejected with, and v1.0.0 must be published.
	want string
}

// bad is a case in which a commit of a bad tree stands beside a good one.
func bad(name, want string, tree func(p *packer) string) hostileCase {
	return hostileCase{name, func(p *packer) ([]string, string) {
		refs := []string{"refs/tags/v1.0.0", p.good(), "refs/tags/v9.9.9", p.commit(tree(p))}
		return refs, p.String()
	}, "[" + want + "]"}
}

// badTag is a case in which a bad tag stands beside a good one.
func badTag(name, want string, oid func(p *packer) string) hostileCase {
	return hostileCase{name, func(p *packer) ([]string, string) {
		refs := []string{"refs/tags/v1.0.0", p.good(), "refs/tags/v9.9.9", oid(p)}
		return refs, p.String()
	}, "[" + want + "]"}
}

// one is a case of one tag, whose pack is made by hand.
func one(name, want string, pack func(p *packer) string) hostileCase {
	return hostileCase{name, func(p *packer) ([]string, string) {
		refs := []string{"refs/tags/v1.0.0", p.good()}
		return refs, pack(p)
	}, want}
}

// link is a case of a symlink with a target, beside "dir/file".
func link(name, want, target string) hostileCase {
	return bad(name, want, func(p *packer) string {
		dir := p.tree("100644 file", p.blob("x"))
		return p.tree("40000 dir", dir, "120000 link", p.blob(target))
	})
}

// file is a case of a file with a name.
func file(name, want, path string) hostileCase {
	return bad(name, want, func(p *packer) string { return p.tree("100644 "+path, p.blob("x")) })
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// bombBytes is the length of bombs, more than smallLimits allow.
const bombBytes = 64 << 20

// smallLimits make bombs small.
var smallLimits = []string{"PACKBASE_MAX_PACK=16MiB", "PACKBASE_MAX_OBJECT=16MiB", "PACKBASE_MAX_INFLATED=128MiB", "PACKBASE_MAX_OBJECTS=50000"}

func hostileCases() []hostileCase {
	var null = strings.Repeat("0", 39) + "1"
	return []hostileCase{
		one("UP-01 count 2^32-1", "too_many_objects", func(p *packer) string { return p.lie(1<<32 - 1) }),
		one("UP-01 count 10^9", "too_many_objects", func(p *packer) string { return p.lie(1_000_000_000) }),
		one("UP-01 count one more", "pack_malformed", func(p *packer) string { return p.lie(uint32(p.count) + 1) }),
		one("UP-01 count one less", "pack_malformed", func(p *packer) string { return p.lie(uint32(p.count) - 1) }),

		one("UP-02 bomb", "object_too_large", func(p *packer) string {
			p.entry(blobType, bombBytes, "", io.LimitReader(zeros{}, bombBytes))
			return p.String()
		}),
		one("UP-02 bomb that says it is small", "pack_malformed", func(p *packer) string {
			p.entry(blobType, 10, "", io.LimitReader(zeros{}, bombBytes))
			return p.String()
		}),
		one("UP-02 tree bomb", "object_too_large", func(p *packer) string {
			p.entry(treeType, bombBytes, "", io.LimitReader(zeros{}, bombBytes))
			return p.String()
		}),
		one("UP-02 many bombs", "inflated_too_large", func(p *packer) string {
			for range 12 {
				p.entry(blobType, 12<<20, "", io.LimitReader(zeros{}, 12<<20))
			}
			return p.String()
		}),

		one("UP-03 doubling chain", "object_too_large", func(p *packer) string {
			size := 1 << 10
			base := p.entry(blobType, size, "", io.LimitReader(zeros{}, int64(size)))
			for range 20 {
				d := delta(size, 2*size, copyBytes(0, min(size, 1<<23)), copyBytes(0, min(size, 1<<23)))
				base = p.entry(ofsType, len(d), distance(12+p.body.Len()-base), strings.NewReader(d))
				size *= 2
			}
			return p.String()
		}),
		one("UP-03 deep chain", "delta_too_deep", func(p *packer) string {
			base := p.entry(blobType, 1, "", strings.NewReader("x"))
			for range 5000 {
				d := delta(1, 1, copyBytes(0, 1))
				base = p.entry(ofsType, len(d), distance(12+p.body.Len()-base), strings.NewReader(d))
			}
			return p.String()
		}),
		one("UP-03 result of a lie", "pack_malformed", func(p *packer) string {
			base := p.entry(blobType, 4, "", strings.NewReader("base"))
			d := delta(4, 1<<20, copyBytes(0, 4))
			p.entry(ofsType, len(d), distance(12+p.body.Len()-base), strings.NewReader(d))
			return p.String()
		}),
		one("UP-03 copy past the base", "pack_malformed", func(p *packer) string {
			base := p.entry(blobType, 4, "", strings.NewReader("base"))
			d := delta(4, 4, copyBytes(1<<30, 4))
			p.entry(ofsType, len(d), distance(12+p.body.Len()-base), strings.NewReader(d))
			return p.String()
		}),

		one("UP-04 own base", "pack_malformed", func(p *packer) string {
			d := delta(4, 4, insertBytes("self"))
			p.entry(refType, len(d), rawID(objectID(blobType, "self")), strings.NewReader(d))
			return p.String()
		}),
		one("UP-04 cycle", "pack_malformed", func(p *packer) string {
			a, b := delta(1, 1, insertBytes("a")), delta(1, 1, insertBytes("b"))
			p.entry(refType, len(a), rawID(objectID(blobType, "b")), strings.NewReader(a))
			p.entry(refType, len(b), rawID(objectID(blobType, "a")), strings.NewReader(b))
			return p.String()
		}),
		one("UP-04 missing base", "pack_malformed", func(p *packer) string {
			d := delta(4, 4, copyBytes(0, 4))
			p.entry(refType, len(d), rawID(null), strings.NewReader(d))
			return p.String()
		}),
		one("UP-04 base before the start", "pack_malformed", func(p *packer) string {
			d := delta(4, 4, copyBytes(0, 4))
			p.entry(ofsType, len(d), distance(1<<40), strings.NewReader(d))
			return p.String()
		}),

		bad("UP-05 git bomb", "too_many_entries", func(p *packer) string {
			below, mode := p.blob("bomb"), "100644"
			for range 10 {
				var entries []string
				for n := range 10 {
					entries = append(entries, fmt.Sprintf("%s d%d", mode, n), below)
				}
				below, mode = p.tree(entries...), "40000"
			}
			return below
		}),
		bad("UP-05 200,000 files", "too_many_entries", func(p *packer) string {
			var entries []string
			blob := p.blob("x")
			for n := range 200_000 {
				entries = append(entries, fmt.Sprintf("100644 f%06d", n), blob)
			}
			return p.tree(entries...)
		}),
		bad("UP-06 5,000 levels", "too_deep", func(p *packer) string {
			below, mode := p.blob("x"), "100644"
			for range 5000 {
				below, mode = p.tree(mode+" d", below), "40000"
			}
			return below
		}),

		badTag("UP-10 no commit", "incomplete", func(*packer) string { return objectID(commitType, commitOf(null)) }),
		bad("UP-10 no tree", "incomplete", func(*packer) string { return null }),
		bad("UP-10 no subtree", "incomplete", func(p *packer) string { return p.tree("40000 dir", null) }),
		bad("UP-10 no blob", "incomplete", func(p *packer) string { return p.tree("100644 file", null) }),
		badTag("UP-10 no target", "incomplete", func(p *packer) string { return p.tag("v9.9.9", "commit", null) }),

		badTag("UP-13 chain of 20,000 tags", "tag_too_deep", func(p *packer) string {
			oid, kind := p.good(), "commit"
			for range 20_000 {
				oid, kind = p.tag("v9.9.9", kind, oid), "tag"
			}
			return oid
		}),
		badTag("UP-13 tag of a blob", "tag_not_commit", func(p *packer) string { return p.tag("v9.9.9", "blob", p.blob("x")) }),
		badTag("UP-13 tag of a tree", "tag_not_commit", func(p *packer) string { return p.tag("v9.9.9", "tree", p.tree("100644 a", p.blob("x"))) }),
		badTag("UP-13 light tag of a blob", "tag_not_commit", func(p *packer) string { return p.blob("x") }),
		badTag("UP-13 tag that lies about the type", "wrong_type", func(p *packer) string { return p.tag("v9.9.9", "commit", p.blob("x")) }),
		badTag("UP-13 tag that lies about a tag", "wrong_type", func(p *packer) string { return p.tag("v9.9.9", "tag", p.good()) }),
		badTag("UP-13 tag of another name", "", func(p *packer) string { return p.tag("v0.0.0", "commit", p.good()) }),
		badTag("UP-13 tag without lines", "tag_malformed", func(p *packer) string { return p.object(tagType, "tag\n") }),
		badTag("UP-13 commit without lines", "commit_malformed", func(p *packer) string { return p.object(commitType, "tree\n") }),

		file("UP-14 dot git", "tree_name", ".git"),
		file("UP-14 short dot git", "tree_name", "GIT~1"),
		file("UP-14 dots", "tree_name", ".."),
		file("UP-14 absolute", "tree_name", "/etc/passwd"),
		file("UP-14 backslashes", "tree_name", `..\..\x`),
		file("UP-14 escape codes", "tree_name", "\x1b[2Jx"),
		file("UP-14 no UTF-8", "tree_name", "\xff"),
		file("UP-14 256 bytes", "name_too_long", strings.Repeat("n", 256)),
		file("UP-14 right to left", "", "a\u202egpj.exe"),
		bad("UP-14 two names of one case", "tree_case_collision", func(p *packer) string {
			return p.tree("100644 README", p.blob("x"), "100644 readme", p.blob("x"))
		}),
		bad("UP-14 two names of one form", "tree_case_collision", func(p *packer) string {
			return p.tree("100644 e\u0301", p.blob("x"), "100644 \u00e9", p.blob("x"))
		}),
		bad("UP-14 same name twice", "tree_duplicate", func(p *packer) string {
			return p.tree("100644 a", p.blob("x"), "100644 a", p.blob("x"))
		}),
		bad("UP-14 device", "tree_mode", func(p *packer) string { return p.tree("60644 a", p.blob("x")) }),
		bad("UP-14 path of 1,025 bytes", "path_too_long", func(p *packer) string {
			below, mode := p.blob("x"), "100644"
			for range 6 {
				below, mode = p.tree(mode+" "+strings.Repeat("d", 200), below), "40000"
			}
			return below
		}),

		link("UP-15 absolute", "symlink_escape", "/etc/passwd"),
		link("UP-15 up", "symlink_escape", "dir/../../x"),
		link("UP-15 into .git", "symlink_escape", ".git/config"),
		link("UP-15 empty", "symlink_target", ""),
		link("UP-15 long", "symlink_target", strings.Repeat("a/", 2500)),
		link("UP-15 NUL", "symlink_target", "a\x00b"),
		link("UP-15 itself", "", "link"),
		link("UP-15 inside", "", "dir/file"),
		bad("UP-15 through a link", "symlink_through", func(p *packer) string {
			return p.tree("120000 a", p.blob("."), "120000 b", p.blob("a/x"))
		}),
		bad("UP-15 file under a link", "tree_duplicate", func(p *packer) string {
			return p.tree("120000 a", p.blob("."), "40000 a", p.tree("100644 x", p.blob("x")))
		}),
	}
}

func rawID(oid string) string { return treeOf("", oid)[1:] }

// Hostile repositories end in a code, for the job or for the one tag. Nothing
// of them is published, nothing else suffers.
func TestHostileUpstream(t *testing.T) {
	t.Parallel()
	w := newWatch(t, smallLimits...)
	h := newHostile(t)
	for n, tt := range hostileCases() {
		t.Run(tt.name, func(t *testing.T) {
			p := &packer{}
			refs, pack := tt.make(p)
			pkg := fmt.Sprintf("case-%d", n)
			began := time.Now()
			a := w.s.TryFetch(h.add(pkg, answers{say(list(refs...)), sayPack(pack)}))
			if took := time.Since(began); took > w.limit(5*time.Second) {
				t.Errorf("took %v, want at most 5s", took)
			}
			want, isTag := strings.CutPrefix(tt.want, "[")
			if want = strings.TrimSuffix(want, "]"); !isTag {
				w.failed(t, pkg, a, want)
				return
			}
			if a.Status != http.StatusOK {
				t.Fatalf("fetch: %d %s, want 200", a.Status, a.Body)
			}
			w.rejected(t, pkg, want)
		})
	}
	w.unharmed()
}

// A watch is a packbase that hostile upstreams are tried on.
type watch struct {
	t           *testing.T
	s           *harness.Server
	up          *harness.Upstream
	good        int
	api, worker int // pids
	peak        atomic.Int64
}

func newWatch(t *testing.T, env ...string) *watch {
	t.Helper()
	s := harness.Start(t, slices.Concat(quick, []string{"PACKBASE_JOB_ATTEMPTS=1"}, env)...)
	w := &watch{t: t, s: s, up: harness.NewUpstream(t), api: s.API.PID(), worker: s.Worker.PID()}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.watchChildren(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	w.goodJob()
	return w
}

// watchChildren notes the most memory that a child of the worker takes.
func (w *watch) watchChildren(ctx context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		for _, pid := range w.s.Worker.Children() {
			w.peak.Store(max(w.peak.Load(), harness.PeakMemory(pid)))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// limit is how long something may take, also with the race detector.
func (w *watch) limit(d time.Duration) time.Duration {
	if harness.RaceEnabled {
		return 4 * d
	}
	return d
}

// goodJob checks that a good upstream is mirrored.
func (w *watch) goodJob() {
	w.t.Helper()
	w.good++
	repo := w.up.Repo(fmt.Sprintf("good-%d", w.good))
	release(w.t, repo, 0, 2, 1000)
	w.s.Fetch(repo.URL)
}

// failed checks that a job ended with a code and published nothing.
func (w *watch) failed(t *testing.T, pkg string, a *harness.Answer, code string) {
	t.Helper()
	if a.Status < 400 || a.Code() != code {
		t.Errorf("fetch: %d %s, want %s", a.Status, a.Body, code)
	}
	info := w.s.Info(pkg)
	if len(info.Tarballs) != 0 {
		t.Errorf("%d releases, want none", len(info.Tarballs))
	}
	if info.LastSync == nil || info.LastSync.OK || info.LastSync.Error.Code != code {
		t.Errorf("last sync = %+v, want a failure with %s", info.LastSync, code)
	}
}

// rejected checks that v1.0.0 is published and v9.9.9 rejected with a code, or
// published if that is "".
func (w *watch) rejected(t *testing.T, pkg, code string) {
	t.Helper()
	info := w.s.Info(pkg)
	info.Release(t, "v1.0.0")
	if code == "" {
		info.Release(t, "v9.9.9")
		return
	}
	if len(info.Tarballs) != 1 || len(info.RejectedTags) != 1 || info.RejectedTags[0].Code != code {
		t.Errorf("rejected = %+v beside %d releases, want v9.9.9 with %s beside one", info.RejectedTags, len(info.Tarballs), code)
	}
	for _, r := range info.RejectedTags {
		checkText(t, r.Reason)
	}
	if a := w.s.Do(http.MethodGet, "/p/"+pkg+"/tag/v9.9.9.tar.gz", "", nil); a.Status != http.StatusNotFound {
		t.Errorf("GET of the rejected tag: %d, want 404", a.Status)
	}
}

// checkText checks that a message cannot hurt a terminal or a log.
func checkText(t *testing.T, text string) {
	t.Helper()
	if text == "" || len(text) > 500 || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("message = %q, want it printable and short", text)
	}
}

// unharmed checks that nothing came of what was tried.
func (w *watch) unharmed() {
	w.t.Helper()
	w.goodJob()
	if !w.s.API.Running() || w.s.API.PID() != w.api || !w.s.Worker.Running() || w.s.Worker.PID() != w.worker {
		w.t.Error("a process ended")
	}
	most := int64(maxChild)
	if harness.RaceEnabled {
		most *= 4 // its own memory
	}
	peak := w.peak.Load()
	w.t.Logf("children took up to %d MiB", peak>>20)
	if peak == 0 || peak > most {
		w.t.Errorf("a child took %d MiB, want more than none and at most %d", peak>>20, most>>20)
	}
	c := newChecker(w.t, w.s)
	c.clean()
	for n := range w.good {
		c.tags(w.up.Repo(fmt.Sprintf("good-%d", n+1)))
	}
}

// UP-07, UP-08, UP-20, UP-21: what upstream answers, byte by byte.
func TestHostileAnswers(t *testing.T) {
	t.Parallel()
	w := newWatch(t, smallLimits...)
	h := newHostile(t)
	p := &packer{}
	commit := p.good()
	pack := p.String()
	refs := say(list("refs/tags/v1.0.0", commit))
	status := func(code int, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for pair := range slices.Chunk(header, 2) {
				w.Header().Set(pair[0], pair[1])
			}
			w.WriteHeader(code)
			if code != http.StatusNoContent {
				_, _ = io.WriteString(w, "<p>\x1b[31m secret internals</p>")
			}
		}
	}
	var bomb bytes.Buffer
	zw := gzip.NewWriter(&bomb)
	if _, err := io.Copy(zw, io.LimitReader(zeros{}, bombBytes)); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	first := listHead + pkt(commit+" refs/tags/v1.0.0\x00"+capabilities+"\n")
	escapes := "\x1b]0;title\a\x1b[2J\r\nfatal: \xff\u202e https://user:hunter2@host/x " + strings.Repeat("long ", 10_000)

	tests := []struct {
		name       string
		list, pack http.HandlerFunc
		want       string
	}{
		{"UP-07 endless pack", refs, endless(packHead, band(1, strings.Repeat("x", 60_000))), "pack_too_large"},
		{"UP-07 endless progress", refs, endless(packHead, band(2, strings.Repeat("x", 60_000))), "pack_too_large"},
		{"UP-08 endless tags", floodRefs("refs/tags/"), nil, "too_many_refs"},
		{"UP-08 endless others", floodRefs("refs/pull/"), nil, "ref_list_too_large"},
		{"UP-08 long names", endless(first, pkt(commit+" refs/tags/"+strings.Repeat("n", 65_000)+"\n")), nil, "ref_list_too_large"},
		{"UP-08 no flush", say(strings.TrimSuffix(list("refs/tags/v1.0.0", commit), "0000")), nil, "upstream_incomplete"},
		{"UP-20 200 html", status(200, "Content-Type", "text/html"), nil, "upstream_not_git"},
		{"UP-20 204", status(204), nil, "upstream_not_git"},
		{"UP-20 301 to itself", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.String(), 301) }, nil, "upstream_redirect"},
		{"UP-20 302 to a private place", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/x/info/refs?service=git-upload-pack", 302)
		}, nil, "upstream_address"},
		{"UP-20 401", status(401, "WWW-Authenticate", "Basic"), nil, "upstream_auth"},
		{"UP-20 403", status(403), nil, "upstream_auth"},
		{"UP-20 404", status(404), nil, "upstream_not_found"},
		{"UP-20 410", status(410), nil, "upstream_not_found"},
		{"UP-20 429", status(429), nil, "upstream_rate_limited"},
		{"UP-20 500", status(500), nil, "upstream_unavailable"},
		{"UP-20 503", status(503), nil, "upstream_unavailable"},
		{"UP-20 gzip bomb", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(bomb.Bytes())
		}, nil, "upstream_not_git"},
		{"UP-20 length too long", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100000")
			say(first)(w, r)
		}, nil, "upstream_incomplete"},
		{"UP-20 404 for the pack", refs, status(404), "upstream_not_found"},
		{"UP-20 pack cut", refs, say(packHead + band(1, pack[:len(pack)-30])), "upstream_incomplete"},
		{"UP-20 pack cut in the pack", refs, sayPack(pack[:len(pack)-30]), "pack_malformed"},
		{"UP-20 pack with a wrong byte", refs, sayPack(pack[:20] + "\xff" + pack[21:]), "pack_malformed"},
		{"UP-21 ERR", say(pkt("ERR " + escapes)), nil, "upstream_refused"},
		{"UP-21 error channel", refs, say(packHead + pkt("\x03"+escapes)), "upstream_refused"},
		{"UP-21 progress", refs, say(packHead + band(2, strings.Repeat(escapes, 200)) + band(1, pack) + "0000"), ""},
		{"no tags", say(list("refs/heads/main", commit)), nil, "no_tags"},
		{"nothing", say(listHead + pkt(strings.Repeat("0", 40)+" capabilities^{}\x00"+capabilities+"\n") + "0000"), nil, "no_tags"},
	}
	for n, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pkg := fmt.Sprintf("answer-%d", n)
			a := w.s.TryFetch(h.add(pkg, answers{tt.list, tt.pack}))
			if tt.want == "" {
				if a.Status != http.StatusOK {
					t.Errorf("fetch: %d %s, want 200", a.Status, a.Body)
				}
				return
			}
			w.failed(t, pkg, a, tt.want)
			var body struct{ Message string }
			a.Into(t, &body)
			checkText(t, body.Message)
			for _, secret := range []string{"secret internals", "hunter2"} {
				if bytes.Contains(a.Body, []byte(secret)) {
					t.Errorf("answer = %s, want it without %q", a.Body, secret)
				}
			}
		})
	}
	w.unharmed()
}

// floodRefs lists refs without end.
func floodRefs(prefix string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		oid := objectID(blobType, "x")
		_, err := io.WriteString(w, listHead+pkt(oid+" HEAD\x00"+capabilities+"\n"))
		for n := 0; err == nil && r.Context().Err() == nil; n++ {
			_, err = io.WriteString(w, pkt(fmt.Sprintf("%s %s%012d\n", oid, prefix, n)))
		}
	}
}

// UP-16: tags whose names nobody can use are skipped, each with its reason,
// and the others are published.
func TestHostileRefNames(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	h := newHostile(t)
	names := []string{
		"../../etc/passwd", "a/../b", "..", ".", "/abs", "a//b", "a/", "a b", "a~b", "a^b", "a:b", "a?b", "a*b", "a[b", `a\b`,
		"a..b", "a.", ".a", "a/.b", "a.lock", "a.lock/b", "@{", "a@{b", "-rf", "\x1b[2J", "a\x7fb", "\xff", strings.Repeat("n", 300),
		"a\tb", "a\u0085b", "a\rb",
	}
	p := &packer{}
	commit := p.good()
	refs := []string{"refs/tags/v1.0.0", commit}
	for _, name := range names {
		refs = append(refs, "refs/tags/"+name, commit)
	}
	refs = append(refs, "refs/tags/%2e%2e%2fx", commit, "refs/tags/v1.1.0/rc/1", commit, "refs/tags/../heads/x", commit, "refs/tags/", commit)
	a := w.s.TryFetch(h.add("names", answers{say(list(refs...)), sayPack(p.String())}))
	if a.Status != http.StatusOK {
		t.Fatalf("fetch: %d %s, want 200", a.Status, a.Body)
	}
	info := w.s.Info("names")
	var published []string
	for _, r := range info.Tarballs {
		published = append(published, r.Tag)
	}
	slices.Sort(published)
	if want := []string{"%2e%2e%2fx", "v1.0.0", "v1.1.0/rc/1"}; !slices.Equal(published, want) {
		t.Errorf("published %q, want %q", published, want)
	}
	if len(info.RejectedTags) < len(names) {
		t.Errorf("%d tags are rejected, want %d", len(info.RejectedTags), len(names))
	}
	for _, r := range info.RejectedTags {
		checkText(t, r.Tag+": "+r.Reason)
	}
	w.unharmed()
}

// UP-07, at 1 KB/s: the job's time limit ends what no other limit does.
func TestJobDeadline(t *testing.T) {
	t.Parallel()
	w := newWatch(t, "PACKBASE_JOB_TIMEOUT=2s")
	h := newHostile(t)
	p := &packer{}
	commit := p.good()
	slow := func(rw http.ResponseWriter, r *http.Request) {
		_, err := io.WriteString(rw, packHead)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for err == nil {
			if _, err = io.WriteString(rw, band(1, strings.Repeat("x", 100))); err == nil {
				err = http.NewResponseController(rw).Flush()
			}
			select {
			case <-r.Context().Done():
				return
			case <-tick.C:
			}
		}
	}
	began := time.Now()
	a := w.s.TryFetch(h.add("slow", answers{say(list("refs/tags/v1.0.0", commit)), slow}))
	if took := time.Since(began); took > 7*time.Second {
		t.Errorf("ended after %v, want at most 5s after the limit of 2s", took)
	}
	w.failed(t, "slow", a, "timeout")
	w.unharmed()
}

// UP-20: a host that asks for a rest gets one, of an hour at most.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	w := newWatch(t)
	var asked atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.Header().Set("Retry-After", "31536000")
		w.WriteHeader(http.StatusTooManyRequests)
	}))
	t.Cleanup(srv.Close)
	w.failed(t, "first", w.s.TryFetch(srv.URL+"/first"), "upstream_rate_limited")
	id := w.s.Ask(srv.URL + "/second")
	conn, err := pgx.Connect(t.Context(), w.s.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	harness.Eventually(t, "the second job waits for the host", func() bool {
		var wait time.Duration
		err := conn.QueryRow(t.Context(), `SELECT run_at - now() FROM jobs WHERE id = $1`, id).Scan(&wait)
		if err != nil {
			t.Fatal(err)
		}
		if wait > time.Hour {
			t.Fatalf("the job waits for %v, want at most an hour", wait)
		}
		return wait > 50*time.Minute
	})
	if n := asked.Load(); n != 1 {
		t.Errorf("upstream was asked %d times, want once", n)
	}
	w.unharmed()
}

// UP-23: URLs that stand in a repository are never dialled.
func TestURLsInFiles(t *testing.T) {
	t.Parallel()
	canary, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var dialled atomic.Int64
	go func() {
		for {
			conn, err := canary.Accept()
			if err != nil {
				return
			}
			dialled.Add(1)
			conn.Close()
		}
	}()
	t.Cleanup(func() { canary.Close() })
	w := newWatch(t)
	url := "http://" + canary.Addr().String() + "/x"
	pointer := "version https://git-lfs.github.com/spec/v1\noid sha256:" + strings.Repeat("a", 64) + "\nsize 12345\n"
	repo := w.up.Repo("links")
	repo.Tag("v1.0.0", repo.Commit(harness.Files{
		".gitmodules":    "[submodule \"sub\"]\n\tpath = sub\n\turl = " + url + "\n",
		"sub&":           strings.Repeat("1", 40),
		".lfsconfig":     "[lfs]\n\turl = " + url + "\n",
		".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n",
		"large.bin":      pointer,
		"build.zig.zon":  ".{ .name = .x, .version = \"1.0.0\", .paths = .{\"\"}, .dependencies = .{ .d = .{ .url = \"" + url + "\", .hash = \"x\" } } }\n",
	}))
	repo.Git("config", "uploadpack.advertiseBundleURIs", "true")
	w.s.Fetch(repo.URL)
	w.s.Do(http.MethodPost, "/api/check", `{"package":"links"}`, nil)
	c := newChecker(t, w.s)
	info := w.s.Info("links")
	if got, want := c.tarball("links", info.Release(t, "v1.0.0")), c.archive(repo, repo.Git("rev-parse", "v1.0.0")); got != want {
		t.Errorf("tar stream = %s, want %s", got, want)
	}
	if n := dialled.Load(); n != 0 {
		t.Errorf("the canary was dialled %d times, want never", n)
	}
	w.unharmed()
}
