package smarthttp

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/francescobianco/packbase/api/pace"
	"github.com/francescobianco/packbase/storage/gitpack"
)

// run runs git in dir with no configuration but the arguments', and returns
// what it prints.
func run(t testing.TB, dir string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_AUTHOR_DATE=1700000000 +0000",
		"GIT_COMMITTER_NAME=c", "GIT_COMMITTER_EMAIL=c@example.org", "GIT_COMMITTER_DATE=1700000000 +0000")
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// git is run for what must succeed.
func git(t testing.TB, dir string, args ...string) string {
	t.Helper()
	out, err := run(t, dir, args...)
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// An upstream is a real repository to mirror.
type upstream struct {
	t   testing.TB
	dir string
}

// newUpstream returns a repository with a line of commits v1 to v4, each with
// an annotated tag, that share most of their files; a lightweight tag, a tag
// of a tag, and a last commit without a tag.
func newUpstream(t testing.TB) *upstream {
	u := &upstream{t, t.TempDir()}
	u.git("init", "-q", "-b", "main")
	u.write("big.txt", strings.Repeat("a line that all releases share\n", 20_000))
	u.write("noise.bin", noise(300_000))
	for i := 1; i <= 4; i++ {
		u.commit(fmt.Sprintf("v%d", i))
	}
	u.git("tag", "light", "v2^{}")
	u.git("tag", "-a", "-m", "a tag of a tag", "nested", "v3")
	u.write("later", "not tagged")
	u.git("add", ".")
	u.git("commit", "-qm", "later")
	return u
}

// noise returns bytes that do not compress.
func noise(n int) string {
	b := make([]byte, n)
	x := uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return string(b)
}

func (u *upstream) git(args ...string) string {
	u.t.Helper()
	return git(u.t, u.dir, args...)
}

func (u *upstream) write(name, content string) {
	u.t.Helper()
	file := filepath.Join(u.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		u.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		u.t.Fatal(err)
	}
}

// commit adds a commit with an annotated tag.
func (u *upstream) commit(tag string) {
	u.t.Helper()
	u.write("src/"+tag+"/only.txt", tag)
	u.write("src/version", tag)
	u.git("add", ".")
	u.git("commit", "-qm", tag)
	u.git("tag", "-a", "-m", "release "+tag, tag)
}

func (u *upstream) oid(name string) gitpack.OID {
	u.t.Helper()
	id, err := gitpack.ParseOID(u.git("rev-parse", name))
	if err != nil {
		u.t.Fatal(err)
	}
	return id
}

// A mirror is a Store of the tags of one upstream, in files.
type mirror struct {
	t          testing.TB
	dir        string
	unreadable bool // segments cannot be read
	merged     bool // a commit's pack holds its tag objects

	mu       sync.Mutex
	repo     *Repository
	packs    map[gitpack.OID]gitpack.Stored
	segments []string
	indexes  []*gitpack.SegmentIndex
}

func newMirror(t testing.TB, u *upstream) *mirror {
	m := &mirror{t: t, dir: t.TempDir(), packs: map[gitpack.OID]gitpack.Stored{}}
	m.sync(u)
	return m
}

// sync copies what is new upstream: every tag, and the commit of main, which
// gets no ref. HEAD becomes the last of the v tags.
func (m *mirror) sync(u *upstream) {
	m.t.Helper()
	repo := &Repository{Package: "pkg"}
	needs := map[gitpack.OID][]gitpack.OID{} // of new commits and tag objects
	commits := map[gitpack.OID]gitpack.OID{}
	var order []gitpack.OID
	add := func(id, commit gitpack.OID, tags ...gitpack.OID) {
		if _, ok := m.packs[id]; ok || needs[id] != nil {
			return
		}
		objects := append(tags, u.objects(commit)...)
		needs[id], commits[id] = objects, commit
		order = append(slices.Clone(objects), order...) // newest first
	}
	for line := range strings.Lines(u.git("for-each-ref", "--format=%(refname) %(objectname) %(objecttype)", "refs/tags")) {
		fields := strings.Fields(line)
		ref := Ref{Name: fields[0], OID: u.parse(fields[1])}
		var tags []gitpack.OID
		commit, typ := ref.OID, fields[2]
		for typ == "tag" {
			tags = append(tags, commit)
			tag := strings.Fields(u.git("cat-file", "tag", commit.String()))
			commit, typ = u.parse(tag[1]), tag[3]
			ref.Peeled = commit
		}
		add(commit, commit)
		add(ref.OID, commit, tags...)
		repo.Refs = append(repo.Refs, ref)
		if strings.HasPrefix(ref.Name, "refs/tags/v") {
			repo.Head = commit
		}
	}
	untagged := u.oid("main")
	add(untagged, untagged)
	repo.Snapshots = []gitpack.OID{untagged}

	held := gitpack.NewSet(m.indexes...)
	order = slices.DeleteFunc(unique(order), func(id gitpack.OID) bool {
		_, ok := held.Ordinal(id)
		return ok
	})
	if len(order) > 0 {
		m.append(u, order)
	}
	repo.Set = gitpack.NewSet(m.indexes...)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.repo = repo
	for id, objects := range needs {
		var err error
		if m.packs[id], err = repo.Set.Stored(commits[id], objects, m.open, 0); err != nil {
			m.t.Fatal(err)
		}
	}
	for id, st := range m.packs {
		if m.merged && st.Objects > m.packs[st.Commit].Objects {
			m.packs[st.Commit] = m.packs[id]
		}
	}
}

// objects returns a commit and all that its tree leads to.
func (u *upstream) objects(commit gitpack.OID) []gitpack.OID {
	u.t.Helper()
	var ids []gitpack.OID
	for line := range strings.Lines(u.git("rev-list", "--objects", "--no-walk", commit.String())) {
		ids = append(ids, u.parse(line[:40]))
	}
	return ids
}

func (u *upstream) parse(s string) gitpack.OID {
	u.t.Helper()
	id, err := gitpack.ParseOID(s)
	if err != nil {
		u.t.Fatal(err)
	}
	return id
}

// append writes a segment of the objects ids.
func (m *mirror) append(u *upstream, ids []gitpack.OID) {
	m.t.Helper()
	spool, err := os.Create(filepath.Join(m.t.TempDir(), "spool"))
	if err != nil {
		m.t.Fatal(err)
	}
	defer spool.Close()
	objects := gitpack.NewObjects(spool)
	cmd := exec.Command("git", "cat-file", "--batch")
	cmd.Dir = u.dir
	var names, out bytes.Buffer
	for _, id := range ids {
		fmt.Fprintln(&names, id)
	}
	cmd.Stdin, cmd.Stdout = &names, &out
	if err := cmd.Run(); err != nil {
		m.t.Fatal(err)
	}
	types := map[string]gitpack.Type{"commit": gitpack.Commit, "tree": gitpack.Tree, "blob": gitpack.Blob, "tag": gitpack.Tag}
	for r := bufio.NewReader(&out); ; {
		var id, typ string
		var size int64
		if _, err := fmt.Fscanf(r, "%s %s %d\n", &id, &typ, &size); err == io.EOF {
			break
		} else if err != nil {
			m.t.Fatal(err)
		}
		if got, err := objects.Add(types[typ], size, io.LimitReader(r, size)); err != nil || got.String() != id {
			m.t.Fatalf("add %s: %s, %v", id, got, err)
		}
		r.ReadByte()
	}
	file, err := os.Create(filepath.Join(m.dir, fmt.Sprint(len(m.segments))))
	if err != nil {
		m.t.Fatal(err)
	}
	defer file.Close()
	index, err := gitpack.WriteSegment(m.t.Context(), file, objects, ids)
	if err != nil {
		m.t.Fatal(err)
	}
	m.segments, m.indexes = append(m.segments, file.Name()), append(m.indexes, index)
}

func (m *mirror) open(i int) (gitpack.Segment, error) { return os.Open(m.segments[i]) }

func (m *mirror) Repository(_ context.Context, pkg string) (*Repository, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch pkg {
	case "pkg":
		return m.repo, nil
	case "empty":
		return nil, &Error{Status: http.StatusNotFound, Code: "no_releases",
			Message: "package empty has no releases yet: its last fetch failed: upstream refused the connection"}
	case "broken":
		return nil, fmt.Errorf("query repository: connection refused")
	}
	return nil, &Error{Status: http.StatusNotFound, Code: "not_found", Message: "there is no package " + pkg}
}

func (m *mirror) Packs(_ context.Context, _ *Repository, ids []gitpack.OID) (map[gitpack.OID]gitpack.Stored, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	packs := map[gitpack.OID]gitpack.Stored{}
	for _, id := range ids {
		if st, ok := m.packs[id]; ok {
			packs[id] = st
		}
	}
	return packs, nil
}

func (m *mirror) Segment(_ context.Context, _ *Repository, i int) (gitpack.Segment, error) {
	if m.unreadable {
		return cutSegment{}, nil
	}
	return m.open(i)
}

// A cutSegment ends before its first byte.
type cutSegment struct{}

func (cutSegment) ReadAt([]byte, int64) (int, error) { return 0, io.EOF }
func (cutSegment) Close() error                      { return nil }

// serve serves m at <url>/<package> until the test ends.
func serve(t testing.TB, m Store, opts Options) (url string) {
	return serveHandler(t, New(m, opts, slog.New(slog.DiscardHandler)))
}

// serveHandler serves h. window, if given, is the most time that a client may
// stand still.
func serveHandler(t testing.TB, h *Handler, window ...time.Duration) (url string) {
	mux := http.NewServeMux()
	mux.HandleFunc("/{pkg}/info/refs", func(w http.ResponseWriter, r *http.Request) {
		h.InfoRefs(w, r, r.PathValue("pkg"))
	})
	mux.HandleFunc("/{pkg}/git-upload-pack", func(w http.ResponseWriter, r *http.Request) {
		h.UploadPack(w, r, r.PathValue("pkg"))
	})
	limits := pace.Default()
	for _, limits.Window = range window {
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = limits.Body(w, r)
		mux.ServeHTTP(limits.Writer(w, r), r)
	}))
	s.Listener, s.Config.ConnContext = pace.Listener(s.Listener), pace.Conn
	s.Start()
	t.Cleanup(s.Close)
	return s.URL
}
