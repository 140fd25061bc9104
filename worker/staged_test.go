package worker

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/storagetest"
	"github.com/francescobianco/packbase/worker/ingest"
	"github.com/francescobianco/packbase/worker/upstream"
)

// A child under the control of upstream stages things that are no files, or
// that it can change later.
func TestTakeStaged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := &fetch{w: &Worker{opt: Options{Limits: ingest.Limits{File: 10}}}, dir: dir, staged: filepath.Join(dir, "ingest")}
	secret := filepath.Join(dir, "secret")
	staged := func(name string) string { return filepath.Join(f.staged, name) }
	for _, err := range []error{
		os.Mkdir(f.staged, 0o700),
		os.WriteFile(secret, []byte("secret"), 0o600),
		os.Symlink(secret, staged("link")),
		unix.Mkfifo(staged("fifo"), 0o600),
		os.Mkdir(staged("folder"), 0o700),
		os.WriteFile(staged("twice"), []byte("x"), 0o600),
		os.Link(staged("twice"), staged("again")),
		os.WriteFile(staged("large"), make([]byte, 11), 0o600),
		os.WriteFile(staged("good"), []byte("good"), 0o600),
		os.WriteFile(staged("open"), []byte("open"), 0o666),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"link", "fifo", "folder", "twice", "large", "../secret", "..", "", "missing"} {
		if file, err := f.unstage(name); err == nil {
			t.Errorf("%q was taken as %s", name, file.Name())
			file.Close()
		}
	}
	writer, err := os.OpenFile(staged("open"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	for _, name := range []string{"good", "open"} {
		file, err := f.unstage(name)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if name == "open" {
			if _, err := writer.WriteAt([]byte("evil"), 0); err != nil {
				t.Fatal(err)
			}
		}
		if b, err := io.ReadAll(file); err != nil || string(b) != name {
			t.Errorf("%s is %q, %v", name, b, err)
		}
		if _, err := os.Stat(staged(name)); err == nil {
			t.Errorf("%s is still in the child's folder", name)
		}
		if filepath.Dir(file.Name()) != dir {
			t.Errorf("%s was taken to %s, want the worker's folder", name, file.Name())
		}
	}
}

// Nor is it believed what the objects are that it staged, and where.
func TestObjectsOfChild(t *testing.T) {
	t.Parallel()
	for name, lie := range map[string]struct {
		change func(layout, spool []byte) (newLayout, newSpool []byte)
		want   string
	}{
		"nothing": {func(l, s []byte) ([]byte, []byte) { return l, s }, ""},
		"a file": {func(l, s []byte) ([]byte, []byte) {
			return l, bytes.Replace(s, []byte("payload"), []byte("evil..."), 1)
		}, "is missing"},
		"the commit":   {func(l, s []byte) ([]byte, []byte) { return l, bytes.Replace(s, []byte("t <t@"), []byte("x <x@"), 1) }, "is missing"},
		"the type":     {func(l, s []byte) ([]byte, []byte) { l[0] = byte(gitpack.Commit); return l, s }, "is missing"},
		"no type":      {func(l, s []byte) ([]byte, []byte) { l[0] = 7; return l, s }, "the layout has"},
		"the length":   {func(l, s []byte) ([]byte, []byte) { l[16]++; return l, s }, "is missing"},
		"beyond":       {func(l, s []byte) ([]byte, []byte) { l[15] = 1; return l, s }, "the spool has"},
		"below zero":   {func(l, s []byte) ([]byte, []byte) { l[1] = 0x80; return l, s }, "the spool has"},
		"no length":    {func(l, s []byte) ([]byte, []byte) { l[9] = 0x80; return l, s }, "the spool has"},
		"half of it":   {func(l, s []byte) ([]byte, []byte) { return l[:len(l)-1], s }, "a layout of"},
		"less":         {func(l, s []byte) ([]byte, []byte) { return l[:len(l)-17], s }, "is missing"},
		"a short file": {func(l, s []byte) ([]byte, []byte) { return l, s[:len(s)-1] }, "the spool has"},
		"too many":     {func(l, s []byte) ([]byte, []byte) { return slices.Repeat(l, 400_000), s }, "objects, more than"},
		"far too many": {func(l, s []byte) ([]byte, []byte) { return slices.Repeat(l, 800_000), s }, "a layout of"},
	} {
		f := &fetch{w: &Worker{opt: Options{Limits: ingest.DefaultLimits()}}, job: &job{}}
		batch, layout, spool := stagedBatch(t, f)
		spool.Close()
		content, err := os.ReadFile(spool.Name())
		if err != nil {
			t.Fatal(err)
		}
		layout, content = lie.change(layout, content)
		for name, b := range map[string][]byte{"layout": layout, "spool": content} {
			if err := os.WriteFile(filepath.Join(f.staged, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		taken, err := f.unstage(batch.Spool)
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		laid, err := f.unstage(batch.Layout)
		if err != nil {
			t.Fatal(err)
		}
		defer laid.Close()
		objects, err := f.objects(t.Context(), taken, laid)
		if err == nil {
			_, err = f.roots(t.Context(), objects, batch.Roots)
		}
		if name == "nothing" {
			_, err = f.roots(t.Context(), objects, slices.Repeat(batch.Roots, ingest.BatchTags+1))
			if e := fault.From(err); e == nil || e.Code != "ingest_untrue" {
				t.Errorf("too many releases: %v, want ingest_untrue", err)
			}
			_, err = f.roots(t.Context(), objects, batch.Roots)
		}
		if e := fault.From(untrue(err)); (e == nil) != (lie.want == "") || e != nil && (e.Code != "ingest_untrue" || !strings.Contains(e.Message, lie.want)) {
			t.Errorf("a lie about %s: %v, want ingest_untrue with %q", name, untrue(err), lie.want)
		}
	}
}

// Nor is a child that listed refs as a stranger, and got credentials later.
func TestLateCredentials(t *testing.T) {
	t.Parallel()
	closed := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }))
	defer closed.Close()
	netrc := filepath.Join(t.TempDir(), "netrc")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(netrc, []byte("machine 127.0.0.1 login us password s3cret\n"), 0o600))
	allow, err := upstream.ParseAllow(strings.TrimPrefix(closed.URL, "http://"))
	must(err)
	f := &fetch{w: &Worker{db: storagetest.NewDB(t), opt: Options{Egress: upstream.Options{Netrc: netrc, Allow: allow}}}, job: &job{}}
	must(f.openBroker(closed.URL))
	ours, theirs, err := socketPair()
	must(err)
	defer ours.Close()
	go f.broker.Serve(t.Context(), ours)
	conn, err := net.FileConn(theirs)
	must(err)
	defer conn.Close()
	must(f.privatize(t.Context()))
	if f.broker.Gave() || f.pkg.Private {
		t.Fatal("it is private before anybody asked for credentials")
	}
	var o upstream.Options
	o.Through(conn.(*net.UnixConn))
	if _, err := upstream.New(o).Connect(t.Context(), closed.URL+"/o/r"); err == nil {
		t.Fatal("it is no repository")
	}
	if err := f.batch(t.Context(), &ingest.Batch{}); err == nil || !f.pkg.Private {
		t.Errorf("a batch of what needed credentials: private %v, %v", f.pkg.Private, err)
	}
}

// Nor is it believed that something fetched has a history, which is served as it is.
func TestHistoryOfUpstream(t *testing.T) {
	t.Parallel()
	f := &fetch{w: &Worker{opt: Options{Limits: ingest.DefaultLimits()}}, dir: t.TempDir(), staged: t.TempDir(), pkg: storage.Package{CloneURL: "https://git.example/o/r"}}
	err := f.setHistory(t.Context(), &ingest.History{Name: "x", File: "pack", Index: "index"})
	if e := fault.From(err); e == nil || e.Code != "ingest_untrue" {
		t.Errorf("err = %v, want ingest_untrue", err)
	}
}

// Nor is it believed which branches it follows.
func TestBranchesOfChild(t *testing.T) {
	t.Parallel()
	many := map[string]string{}
	for i := range ingest.MaxBranches + 1 {
		many[fmt.Sprint("branch-", i)] = ""
	}
	for what, branches := range map[string]map[string]string{"too many": many, "no name": {"a..b": ""}, "zero byte": {"a\x00": ""}} {
		f := &fetch{refs: ingest.Refs{Branches: branches}}
		if _, err := f.arrived(t.Context()); fault.From(err) == nil || fault.From(err).Code != "ingest_untrue" {
			t.Errorf("%s: %v, want ingest_untrue", what, err)
		}
	}
	var out strings.Builder
	for range ingest.MaxBranches + 1 {
		out.WriteString(`{"unfit":{"branch":"main"}}` + "\n")
	}
	f := &fetch{w: &Worker{log: slog.New(slog.DiscardHandler)}}
	if _, err := f.events(t.Context(), strings.NewReader(out.String())); fault.From(err) == nil || fault.From(err).Code != "ingest_untrue" {
		t.Errorf("too many that are unfit: %v, want ingest_untrue", err)
	}
}

// While upstream lists the same, updates leave a package alone, but for what may do better the next time.
func TestSeenIsWhatIsSettled(t *testing.T) {
	t.Parallel()
	w := &Worker{db: storagetest.NewDB(t)}
	if _, err := w.db.Pool.Exec(t.Context(), `INSERT INTO packages (name, upstream, clone_url) VALUES ('hello', 'https://a.example/hello', 'https://a.example/hello')`); err != nil {
		t.Fatal(err)
	}
	for code, settled := range map[string]bool{"": true, "tree_unfit": true, gitpack.CodeIncomplete: false, "upstream_refused": false} {
		f := &fetch{w: w, job: &job{}, pkg: storage.Package{Name: "hello"}, refs: ingest.Refs{Digest: "abc"}}
		if code != "" {
			f.unfit = []ingest.Unfit{{Branch: "main", Code: code}}
		}
		_, err := f.result(t.Context())
		if f.job.sync == nil || (f.job.sync.Seen != "") != settled {
			t.Errorf("a branch with %q: %+v (%v), want settled %v", code, f.job.sync, err, settled)
		}
	}
}
