// Package workertest gives tests a registry with a real worker, real stores
// and packages from Git repositories that the test makes.
package workertest

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/queue/queuetest"
	"github.com/francescobianco/packbase/storage/storagetest"
	"github.com/francescobianco/packbase/storage/tree"
	"github.com/francescobianco/packbase/worker"
	"github.com/francescobianco/packbase/worker/confine"
	"github.com/francescobianco/packbase/worker/ingest"
	"github.com/francescobianco/packbase/worker/upstream"
)

const childEnv = "PACKBASE_TEST_INGEST"

// Main is a TestMain: the test's binary is its own children, too.
func Main(m *testing.M) {
	child := ingest.Main
	switch os.Getenv(childEnv) {
	case "":
		os.Exit(m.Run())
	case "download":
		child = ingest.Download
	case "download-archive":
		child = ingest.DownloadArchive
	case "unpack-archive":
		child = ingest.UnpackArchive
	case "confine":
		child = confine.Exec
	}
	if err := child(context.Background(), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// A Registry is stores of a test's own.
type Registry struct {
	*storage.DB
	Blobs    *blob.Disk
	Staging  *blob.Staging
	Dir      string // of Blobs
	Fixtures string // bare repositories
	Limits   ingest.Limits
	Log      storagetest.Log
	t        testing.TB
}

// New returns an empty registry.
func New(t testing.TB) *Registry {
	t.Helper()
	r := &Registry{t: t, DB: storagetest.NewDB(t), Dir: t.TempDir(), Fixtures: t.TempDir(), Limits: ingest.DefaultLimits()}
	if raceEnabled {
		r.Limits.Memory = 1 << 50 // the race detector reserves more addresses than there is memory
	}
	var err error
	r.Blobs, err = blob.OpenDisk(r.Dir)
	r.Must(err)
	r.Staging, err = blob.OpenStaging(r.Blobs, "")
	r.Must(err)
	return r
}

// Must ends the test if err is not nil.
func (r *Registry) Must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// Work runs a worker until the test ends, or stop is called.
func (r *Registry) Work(change ...func(*worker.Options)) (stop func()) {
	r.t.Helper()
	self, err := os.Executable()
	r.Must(err)
	opt := worker.Options{
		ID: "tests", Concurrency: 2, Staging: r.Staging, Lease: time.Minute, Reconcile: 100 * time.Millisecond, JobTimeout: 5 * time.Minute,
		MaxAttempts: 1, Limits: r.Limits, Fixtures: r.Fixtures, Git: http.NotFoundHandler(),
		Child: func(ctx context.Context, name string) *exec.Cmd {
			cmd := exec.CommandContext(ctx, self)
			cmd.Env = append(os.Environ(), childEnv+"="+name)
			return cmd
		},
	}
	for _, c := range change {
		c(&opt)
	}
	w := worker.New(r.DB, queuetest.New(r.t), r.Blobs, opt, slog.New(slog.NewTextHandler(&r.Log, nil)))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("worker: %v", err)
		}
	}
	r.t.Cleanup(stop)
	return stop
}

// Tag makes a release of the bare repository of pkg: a commit of files, and an
// annotated tag.
func (r *Registry) Tag(pkg, tag string, files map[string]string) {
	r.t.Helper()
	bare := filepath.Join(r.Fixtures, pkg+".git")
	if _, err := os.Stat(bare); err != nil {
		r.git("", "init", "-q", "--bare", "-b", "main", bare)
	}
	work := r.t.TempDir()
	r.git("", "init", "-q", "-b", "main", work)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		file := filepath.Join(work, name)
		r.Must(os.MkdirAll(filepath.Dir(file), 0o755))
		r.Must(os.WriteFile(file, []byte(files[name]), 0o644))
	}
	r.git(work, "add", "-A")
	r.git(work, "commit", "-q", "-m", tag)
	r.git(work, "tag", "-a", "-m", tag, tag)
	r.git(work, "push", "-q", "-f", bare, "main", tag)
}

// TagEntries makes a release of the bare repository of pkg that is so many
// empty files in one folder.
func (r *Registry) TagEntries(pkg, tag string, entries int) {
	r.t.Helper()
	bare := filepath.Join(r.Fixtures, pkg+".git")
	r.git("", "init", "-q", "--bare", "-b", "main", bare)
	empty := r.Pipe(bare, "", "hash-object", "-w", "--stdin")
	var list strings.Builder
	for i := range entries {
		fmt.Fprintf(&list, "100644 blob %s\t%07d\n", empty, i)
	}
	tree := r.Pipe(bare, list.String(), "mktree")
	r.Pipe(bare, "", "update-ref", "refs/tags/"+tag, r.Pipe(bare, "", "commit-tree", "-m", tag, tree))
}

// Pipe runs git with an input, and returns what it says.
func (r *Registry) Pipe(dir, input string, args ...string) string {
	r.t.Helper()
	return strings.TrimSpace(r.run(dir, input, args...))
}

func (r *Registry) git(dir string, args ...string) { r.t.Helper(); r.run(dir, "", args...) }

func (r *Registry) run(dir, input string, args ...string) string {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), "git", args...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(input)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "HOME=/nonexistent", "GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@example.org",
		"GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@example.org", "GIT_AUTHOR_DATE=1700000000 +0000", "GIT_COMMITTER_DATE=1700000000 +0000")
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// Also gives the commit of a tag a second tag.
func (r *Registry) Also(pkg, tag, other string) {
	r.t.Helper()
	r.git("", "-C", filepath.Join(r.Fixtures, pkg+".git"), "tag", other, tag+"^{commit}")
}

// Fetch has a running worker mirror pkg, and returns how the job ended.
func (r *Registry) Fetch(pkg string) jobs.Job {
	r.t.Helper()
	up, err := name.FixtureUpstream(pkg + ".git")
	r.Must(err)
	ctx := access.SeePrivate(r.t.Context())
	job, _, err := r.RequestFetch(ctx, pkg, up)
	r.Must(err)
	r.Eventually("the job of "+pkg+" has ended", func() bool {
		job, err = r.Jobs.ByID(ctx, job.ID)
		r.Must(err)
		return !job.Open()
	})
	return job
}

// Mirror makes tags of pkg, each with a file of its own, and fetches them.
func (r *Registry) Mirror(pkg string, tags ...string) []storage.Release {
	r.t.Helper()
	for _, tag := range tags {
		r.Tag(pkg, tag, map[string]string{"README.md": "# " + pkg + "\n", "src/" + tag + ".zig": "// " + pkg + " " + tag + "\n"})
		if job := r.Fetch(pkg); job.State != jobs.Succeeded {
			r.t.Fatalf("fetch %s: %s %s: %s\n%s", pkg, job.State, job.ErrorCode, job.ErrorMessage, r.Log.String())
		}
	}
	releases, err := r.Releases(r.t.Context(), pkg)
	r.Must(err)
	if len(releases) < len(tags) {
		r.t.Fatalf("%s has %d releases, want %d", pkg, len(releases), len(tags))
	}
	return releases
}

// Loopback lets a worker fetch archives from the test's own server.
func Loopback(o *worker.Options) {
	o.Egress.Allow, _ = upstream.ParseAllow("127.0.0.0/8")
}

// FetchArchive has a running worker store what a URL answers.
func (r *Registry) FetchArchive(url string) tree.Archive {
	r.t.Helper()
	s, ctx := tree.New(r.DB.DB), access.SeePrivate(r.t.Context())
	id, _, err := s.RequestArchive(ctx, url, "")
	r.Must(err)
	var job jobs.Job
	r.Eventually("the job of "+url+" has ended", func() bool {
		job, err = r.Jobs.ByID(ctx, id)
		r.Must(err)
		return !job.Open()
	})
	if job.State != jobs.Succeeded {
		r.t.Fatalf("fetch %s: %s: %s", url, job.ErrorCode, job.ErrorMessage)
	}
	row, err := s.ByURL(ctx, url)
	r.Must(err)
	return row
}

// Path returns the file of a blob.
func (r *Registry) Path(digest string) string {
	return filepath.Join(r.Dir, "blobs", digest[:2], digest)
}

// Spoil writes other bytes to a blob; with nil it removes it.
func (r *Registry) Spoil(digest string, change func([]byte) []byte) {
	r.t.Helper()
	if change == nil {
		r.Must(os.Remove(r.Path(digest)))
		return
	}
	raw, err := os.ReadFile(r.Path(digest))
	r.Must(err)
	r.Must(os.Chmod(r.Path(digest), 0o644))
	r.Must(os.WriteFile(r.Path(digest), change(raw), 0o644))
}

// Flip changes one bit in the middle.
func Flip(b []byte) []byte { b[len(b)/2] ^= 1; return b }

// Quarantined returns how many files are in quarantine.
func (r *Registry) Quarantined() int {
	r.t.Helper()
	files, err := fs.ReadDir(os.DirFS(r.Dir), "quarantine")
	r.Must(err)
	return len(files)
}

// Eventually waits until ok, or fails the test after two minutes.
func (r *Registry) Eventually(what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("not in two minutes: %s\n%s", what, r.Log.String())
		}
	}
}
