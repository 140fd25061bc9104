package faults

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/tests/harness"
)

// maxChild is how much memory the process that reads upstream may take.
const maxChild = 512 << 20

// A hostilePack is a pack that no honest upstream sends. It begins with a good
// commit, which the tag v1.0.0 names.
type hostilePack struct {
	name string
	want string // the job's code
	pack func(p *packer) string
}

// A hostileTag is a tag that cannot be published as it is.
type hostileTag struct {
	name string
	want string // the code that it is rejected with; "" if it is good after all
	oid  func(p *packer) string
}

// tree is a tag of a commit of a tree.
func tree(name, want string, make func(p *packer) string) hostileTag {
	return hostileTag{name, want, func(p *packer) string { return p.commit(make(p)) }}
}

// file is a tag of a tree with a file of a name.
func file(name, want, path string) hostileTag {
	return tree(name, want, func(p *packer) string { return p.tree("100644 "+path, p.blob("x")) })
}

// link is a tag of a tree with a symlink to a target, beside "dir/file".
func link(name, want, target string) hostileTag {
	return tree(name, want, func(p *packer) string {
		return p.tree("40000 dir", p.tree("100644 file", p.blob("x")), "120000 link", p.blob(target))
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// bombBytes is the length of bombs, more than smallLimits allow.
const bombBytes = 64 << 20

// smallLimits make bombs small.
var smallLimits = []string{"PACKBASE_MAX_PACK=16MiB", "PACKBASE_MAX_OBJECT=16MiB", "PACKBASE_MAX_INFLATED=128MiB", "PACKBASE_MAX_OBJECTS=50000"}

func hostilePacks() []hostilePack {
	return []hostilePack{
		{"UP-01 count 2^32-1", "too_many_objects", func(p *packer) string { return p.lie(1<<32 - 1) }},
		{"UP-01 count 10^9", "too_many_objects", func(p *packer) string { return p.lie(1_000_000_000) }},
		{"UP-01 count one more", "pack_malformed", func(p *packer) string { return p.lie(uint32(p.count) + 1) }},
		{"UP-01 count one less", "pack_malformed", func(p *packer) string { return p.lie(uint32(p.count) - 1) }},

		{"UP-02 bomb", "object_too_large", func(p *packer) string {
			p.entry(blobType, bombBytes, "", io.LimitReader(zeros{}, bombBytes))
			return p.String()
		}},
		{"UP-02 bomb that says it is small", "pack_malformed", func(p *packer) string {
			p.entry(blobType, 10, "", io.LimitReader(zeros{}, bombBytes))
			return p.String()
		}},
		{"UP-02 tree bomb", "object_too_large", func(p *packer) string {
			p.entry(treeType, bombBytes, "", io.LimitReader(zeros{}, bombBytes))
			return p.String()
		}},
		{"UP-02 many bombs", "inflated_too_large", func(p *packer) string {
			for range 12 {
				p.entry(blobType, 12<<20, "", io.LimitReader(zeros{}, 12<<20))
			}
			return p.String()
		}},

		{"UP-03 doubling chain", "object_too_large", func(p *packer) string {
			size := 1 << 10
			base := p.entry(blobType, size, "", io.LimitReader(zeros{}, int64(size)))
			for range 20 {
				base = p.ofs(base, delta(size, 2*size, copyBytes(0, min(size, 1<<23)), copyBytes(0, min(size, 1<<23))))
				size *= 2
			}
			return p.String()
		}},
		{"UP-03 deep chain", "delta_too_deep", func(p *packer) string {
			base := p.entry(blobType, 1, "", strings.NewReader("x"))
			for range 5000 {
				base = p.ofs(base, delta(1, 1, copyBytes(0, 1)))
			}
			return p.String()
		}},
		{"UP-03 result of a lie", "pack_malformed", func(p *packer) string {
			base := p.entry(blobType, 4, "", strings.NewReader("base"))
			p.ofs(base, delta(4, 1<<20, copyBytes(0, 4)))
			return p.String()
		}},
		{"UP-03 copy past the base", "pack_malformed", func(p *packer) string {
			base := p.entry(blobType, 4, "", strings.NewReader("base"))
			p.ofs(base, delta(4, 4, copyBytes(1<<30, 4)))
			return p.String()
		}},

		{"UP-04 own base", "pack_malformed", func(p *packer) string {
			p.ref(objectID(blobType, "self"), delta(4, 4, insertBytes("self")))
			return p.String()
		}},
		{"UP-04 cycle", "pack_malformed", func(p *packer) string {
			a, b := delta(1, 1, insertBytes("a")), delta(1, 1, insertBytes("b"))
			p.ref(objectID(blobType, "b"), a)
			p.ref(objectID(blobType, "a"), b)
			return p.String()
		}},
		{"UP-04 missing base", "pack_malformed", func(p *packer) string {
			p.ref(noObject, delta(4, 4, copyBytes(0, 4)))
			return p.String()
		}},
		{"UP-04 base before the start", "pack_malformed", func(p *packer) string {
			d := delta(4, 4, copyBytes(0, 4))
			p.entry(ofsType, len(d), distance(1<<40), strings.NewReader(d))
			return p.String()
		}},

		{"UP-10 nothing", "incomplete", func(*packer) string { return newPacker().String() }},
	}
}

// noObject is an id that nobody has.
var noObject = strings.Repeat("0", 39) + "1"

func hostileTags() []hostileTag {
	return []hostileTag{
		tree("UP-05 git bomb", "too_many_entries", func(p *packer) string {
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
		tree("UP-05 200,000 files", "too_many_entries", func(p *packer) string {
			var entries []string
			blob := p.blob("x")
			for n := range 200_000 {
				entries = append(entries, fmt.Sprintf("100644 f%06d", n), blob)
			}
			return p.tree(entries...)
		}),
		tree("UP-06 5,000 levels", "too_deep", func(p *packer) string {
			below, mode := p.blob("x"), "100644"
			for range 5000 {
				below, mode = p.tree(mode+" d", below), "40000"
			}
			return below
		}),

		{"UP-10 no commit", "incomplete", func(*packer) string { return objectID(commitType, commitOf(noObject)) }},
		tree("UP-10 no tree", "incomplete", func(*packer) string { return noObject }),
		tree("UP-10 no subtree", "incomplete", func(p *packer) string { return p.tree("40000 dir", noObject) }),
		tree("UP-10 no blob", "incomplete", func(p *packer) string { return p.tree("100644 file", noObject) }),
		{"UP-10 no target", "incomplete", func(p *packer) string { return p.tag("v9.9.9", "commit", noObject) }},

		{"UP-13 chain of 20,000 tags", "tag_too_deep", func(p *packer) string {
			oid, kind := p.good(), "commit"
			for range 20_000 {
				oid, kind = p.tag("v9.9.9", kind, oid), "tag"
			}
			return oid
		}},
		{"UP-13 tag of a blob", "tag_not_commit", func(p *packer) string { return p.tag("v9.9.9", "blob", p.blob("x")) }},
		{"UP-13 tag of a tree", "tag_not_commit", func(p *packer) string { return p.tag("v9.9.9", "tree", p.tree("100644 a", p.blob("x"))) }},
		{"UP-13 light tag of a blob", "tag_not_commit", func(p *packer) string { return p.blob("x") }},
		{"UP-13 tag that lies about the type", "wrong_type", func(p *packer) string { return p.tag("v9.9.9", "commit", p.blob("x")) }},
		{"UP-13 tag that lies about a tag", "wrong_type", func(p *packer) string { return p.tag("v9.9.9", "tag", p.good()) }},
		{"UP-13 tag of another name", "", func(p *packer) string { return p.tag("v0.0.0", "commit", p.good()) }},
		{"UP-13 tag without lines", "tag_malformed", func(p *packer) string { return p.object(tagType, "tag\n") }},
		{"UP-13 commit without lines", "commit_malformed", func(p *packer) string { return p.object(commitType, "tree\n") }},

		file("UP-14 dot git", "tree_name", ".git"),
		file("UP-14 short dot git", "tree_name", "GIT~1"),
		file("UP-14 dots", "tree_name", ".."),
		file("UP-14 absolute", "tree_name", "/etc/passwd"),
		file("UP-14 backslashes", "tree_name", `..\..\x`),
		file("UP-14 escape codes", "tree_name", "\x1b[2Jx"),
		file("UP-14 no UTF-8", "tree_name", "\xff"),
		file("UP-14 256 bytes", "name_too_long", strings.Repeat("n", 256)),
		file("UP-14 right to left", "", "a\u202egpj.exe"),
		tree("UP-14 two names of one case", "", func(p *packer) string {
			return p.tree("100644 README", p.blob("x"), "100644 readme", p.blob("x"))
		}),
		tree("UP-14 two names of one form", "", func(p *packer) string {
			return p.tree("100644 e\u0301", p.blob("x"), "100644 \u00e9", p.blob("x"))
		}),
		tree("UP-14 same name twice", "tree_duplicate", func(p *packer) string {
			return p.tree("100644 a", p.blob("x"), "100644 a", p.blob("x"))
		}),
		tree("UP-14 device", "tree_mode", func(p *packer) string { return p.tree("60644 a", p.blob("x")) }),
		tree("UP-14 path of 1,025 bytes", "path_too_long", func(p *packer) string {
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
		tree("UP-14 a symlink and a file of one case", "tree_case_collision", func(p *packer) string {
			return p.tree("120000 A", p.blob("x"), "100644 a", p.blob("x"))
		}),
		tree("UP-15 through a link", "", func(p *packer) string {
			return p.tree("120000 a", p.blob("."), "120000 b", p.blob("a/x"))
		}),
		tree("UP-15 through a link and out", "symlink_escape", func(p *packer) string {
			return p.tree("120000 a", p.blob("."), "120000 b", p.blob("a/../x"))
		}),
		tree("UP-15 file under a link", "tree_duplicate", func(p *packer) string {
			return p.tree("120000 a", p.blob("."), "40000 a", p.tree("100644 x", p.blob("x")))
		}),
	}
}

// Hostile upstreams end in a code, for the job or for the one tag. Nothing of
// them is published, nothing else suffers.
func TestHostileUpstream(t *testing.T) {
	t.Parallel()
	w := newWatch(t, smallLimits...)
	t.Run("packs", w.packs)
	t.Run("tags", w.tags)
	t.Run("answers", w.answers)
	t.Run("UP-16 ref names", w.refNames)
	t.Run("UP-20 retry after", w.retryAfter)
	t.Run("UP-23 urls in files", w.urlsInFiles)
	w.unharmed()
}

// A watch is a packbase that hostile upstreams are tried on.
type watch struct {
	t           *testing.T
	s           *harness.Server
	h           *hostile
	up          *harness.Upstream // a good one
	good        int
	api, worker int // pids
	peak        atomic.Int64
}

func newWatch(t *testing.T, env ...string) *watch {
	t.Helper()
	s := harness.Start(t, slices.Concat(quick, []string{"PACKBASE_JOB_ATTEMPTS=1"}, env)...)
	w := &watch{t: t, s: s, h: newHostile(t), up: harness.NewUpstream(t), api: s.API.PID(), worker: s.Worker.PID()}
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
			w.peak.Store(max(w.peak.Load(), peakMemory(pid)))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// goodJob checks that a good upstream is mirrored.
func (w *watch) goodJob() {
	w.t.Helper()
	w.good++
	repo := w.up.Repo(fmt.Sprintf("good-%d", w.good))
	tagReleases(w.t, repo, 0, 2, 1000)
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

// packs tries packs that are refused as a whole.
func (w *watch) packs(t *testing.T) {
	for n, tt := range hostilePacks() {
		t.Run(tt.name, func(t *testing.T) {
			p := newPacker()
			refs := list("refs/tags/v1.0.0", p.good())
			pkg := fmt.Sprintf("pack-%d", n)
			url := w.h.add(pkg, answers{say(refs), sayPack(tt.pack(p))})
			began := time.Now()
			a := w.s.TryFetch(url)
			if took := time.Since(began); took > harness.Slack(5*time.Second) {
				t.Errorf("took %v, want at most 5s", took)
			}
			w.failed(t, pkg, a, tt.want)
		})
	}
}

// tags tries tags that are refused each for itself: what is good beside them
// is published.
func (w *watch) tags(t *testing.T) {
	p := newPacker()
	refs := []string{"refs/tags/v1.0.0", p.good()}
	cases := hostileTags()
	for n, tt := range cases {
		refs = append(refs, fmt.Sprintf("refs/tags/v9.%d.0", n), tt.oid(p))
	}
	a := w.s.TryFetch(w.h.add("tags", answers{say(list(refs...)), sayPack(p.String())}))
	if a.Status != http.StatusOK {
		t.Fatalf("fetch: %d %s, want 200", a.Status, a.Body)
	}
	info := w.s.Info("tags")
	info.Release(t, "v1.0.0")
	rejected := map[string]string{}
	for _, r := range info.RejectedTags {
		rejected[r.Tag] = r.Code
		checkText(t, r.Reason)
	}
	for n, tt := range cases {
		tag := fmt.Sprintf("v9.%d.0", n)
		if rejected[tag] != tt.want {
			t.Errorf("%s: rejected with %q, want %q", tt.name, rejected[tag], tt.want)
		}
		status := http.StatusNotFound
		if tt.want == "" {
			status = http.StatusOK
		}
		if a := w.s.Do(http.MethodGet, "/p/tags/tag/"+tag+".tar.gz", "", nil); a.Status != status {
			t.Errorf("%s: GET: %d, want %d", tt.name, a.Status, status)
		}
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

// answers tries what upstream answers, byte by byte.
func (w *watch) answers(t *testing.T) {
	p := newPacker()
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
		{"UP-20 301 to itself", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.String(), http.StatusMovedPermanently)
		}, nil, "upstream_redirect"},
		{"UP-20 302 to a private place", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/x/info/refs?service=git-upload-pack", http.StatusFound)
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
			a := w.s.TryFetch(w.h.add(pkg, answers{tt.list, tt.pack}))
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
}

// floodRefs lists refs without end.
func floodRefs(prefix string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		oid := objectID(blobType, "x")
		// A million lines until a limit is met: they must cost the test little.
		out := bufio.NewWriterSize(w, 64<<10)
		_, err := out.WriteString(listHead + pkt(oid+" HEAD\x00"+capabilities+"\n"))
		line := []byte(pkt(oid + " " + prefix + "000000000000\n"))
		for n := 0; err == nil; n++ {
			for i, rest := len(line)-2, n; rest > 0; i, rest = i-1, rest/10 {
				line[i] = byte('0' + rest%10)
			}
			_, err = out.Write(line) // fails when the client has gone
		}
	}
}

// refNames tries tags whose names nobody can use: they are skipped, each with
// its reason, and the others are published.
func (w *watch) refNames(t *testing.T) {
	names := []string{
		"../../etc/passwd", "a/../b", "..", ".", "/abs", "a//b", "a/", "a b", "a~b", "a^b", "a:b", "a?b", "a*b", "a[b", `a\b`,
		"a..b", "a.", ".a", "a/.b", "a.lock", "a.lock/b", "@{", "a@{b", "-rf", "\x1b[2J", "a\x7fb", "\xff", strings.Repeat("n", 300),
		"a\tb", "a\u0085b", "a\rb",
	}
	p := newPacker()
	commit := p.good()
	refs := []string{"refs/tags/v1.0.0", commit}
	for _, name := range names {
		refs = append(refs, "refs/tags/"+name, commit)
	}
	refs = append(refs, "refs/tags/%2e%2e%2fx", commit, "refs/tags/v1.1.0/rc/1", commit, "refs/tags/../heads/x", commit, "refs/tags/", commit)
	a := w.s.TryFetch(w.h.add("names", answers{say(list(refs...)), sayPack(p.String())}))
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
}

// UP-07, at 1 KB/s: the job's time limit ends what no other limit does.
func TestJobDeadline(t *testing.T) {
	t.Parallel()
	w := newWatch(t, "PACKBASE_JOB_TIMEOUT=5s")
	p := newPacker()
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
	a := w.s.TryFetch(w.h.add("slow", answers{say(list("refs/tags/v1.0.0", commit)), slow}))
	if took := time.Since(began); took > harness.Slack(10*time.Second) {
		t.Errorf("ended after %v, want at most 5s after the limit of 5s", took)
	}
	w.failed(t, "slow", a, "timeout")
	w.unharmed()
}

// retryAfter tries a host that asks for a rest: it gets one, of an hour at most.
func (w *watch) retryAfter(t *testing.T) {
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
}

// urlsInFiles tries URLs that stand in a repository: they are never dialled.
func (w *watch) urlsInFiles(t *testing.T) {
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
}

// peakMemory returns the most memory that a process has held so far, in
// bytes, 0 if it has ended.
func peakMemory(pid int) int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err == nil {
				return kib << 10
			}
		}
	}
	return 0
}
