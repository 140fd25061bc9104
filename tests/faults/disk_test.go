package faults

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/tests/harness"
)

// CR-07: the disk is full at any point of a job. The job waits, nothing else
// suffers, and it goes on by itself when there is room.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	rnd := random(t)
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=48m"); errors.Is(err, syscall.EPERM) {
		t.Skip("mounting a small disk needs root")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	up := harness.NewUpstream(t)
	s := harness.Start(t, append(quick, "PACKBASE_ROOT="+filepath.Join(disk, "root"))...)
	c := newChecker(t, s)
	first := up.Repo("first")
	tagReleases(t, first, 0, 2, 10_000)
	s.Fetch(first.URL)
	full := 0
	for n := range rounds(6, 30) {
		repo := up.Repo(fmt.Sprintf("full-%d", n))
		tagReleases(t, repo, 0, 3, 100_000)
		before := free(t, disk)
		filler := filepath.Join(disk, "filler")
		// A job needs about 1.3 MB at once and keeps half of it.
		fill(t, filler, before, rnd.Int64N(1_300_000))
		id := s.Ask(repo.URL)
		var job wire.Job
		harness.Within(t, recoveryTime, "the job has ended or waits for room", func() bool {
			job = s.Job(id)
			return !job.Open() || job.Error.Code != ""
		})
		if job.Open() {
			full++
			if job.Error.Code != "storage_full" {
				t.Errorf("job waits for %s: %s, want storage_full", job.Error.Code, job.Error.Message)
			}
			c.complete(repo) // what there is, if anything
		}
		c.tags(first)
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		c.settled(recoveryTime, id)
		c.clean()
		c.tags(repo)
		if kept := before - free(t, disk); kept > 1_300_000 {
			t.Errorf("round %d: %d bytes more are used after, want what was published", n, kept)
		}
	}
	t.Logf("the disk was full in %d rounds", full)
	if full == 0 {
		t.Error("the disk was never full")
	}
}

// fill writes a file that leaves the given number of bytes of a disk that has
// about so many. The disk is filled first, as others may write at the same
// moment.
func fill(t *testing.T, name string, free, leave int64) {
	t.Helper()
	if err := os.WriteFile(name, make([]byte, free+1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("filling the disk: %v, want no space left", err)
	}
	info, err := os.Stat(name)
	if err == nil {
		err = os.Truncate(name, max(0, info.Size()-leave))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func free(t *testing.T, dir string) int64 {
	t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Bavail) * st.Bsize
}

// What a disk does to blobs is never served as if it were right, where that
// can be seen, and mended from what is right.
func TestBlobs(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	s := harness.Start(t, quick...)
	repo := up.Repo("rotten")
	tagReleases(t, repo, 0, 3, 30_000)
	s.Fetch(repo.URL)
	c := newChecker(t, s)
	c.tags(repo)
	r := &rotten{t: t, s: s, c: c, repo: repo}
	r.gone()
	r.rot(random(t))
}

// rotten is a package whose blobs suffer.
type rotten struct {
	t    *testing.T
	s    *harness.Server
	c    *checker
	repo *harness.Repo
}

func (r *rotten) path(digest string) string {
	return filepath.Join(r.s.Root, "blobs", digest[:2], digest)
}

// change writes other bytes to a blob.
func (r *rotten) change(digest string, change func([]byte) []byte) {
	r.t.Helper()
	b, err := os.ReadFile(r.path(digest))
	err = errors.Join(err, os.Chmod(r.path(digest), 0o644))
	if err = errors.Join(err, os.WriteFile(r.path(digest), change(b), 0o644)); err != nil {
		r.t.Fatal(err)
	}
}

// get returns the answer for a tarball, which must not be whole and wrong.
func (r *rotten) get(rel wire.Tarball) *harness.Answer {
	r.t.Helper()
	a, err := r.s.TryDo(http.MethodGet, rel.URL, "", nil)
	switch {
	case err != nil: // cut
	case a.Status == http.StatusOK && sum(a.Body) != rel.SHA256:
		r.t.Errorf("GET %s: 200 with %d bytes, want an error", rel.URL, len(a.Body))
	case a.Status != http.StatusOK && (a.Code() == "" || strings.Contains(string(a.Body), r.s.Root)):
		r.t.Errorf("GET %s: %d %s, want a code and no path", rel.URL, a.Status, a.Body)
	}
	return a
}

// mended waits until a tarball is served again, and checks everything.
func (r *rotten) mended(what string, rel wire.Tarball) {
	r.t.Helper()
	harness.Eventually(r.t, what+" is mended", func() bool {
		a := r.get(rel)
		return a != nil && a.Status == http.StatusOK
	})
	r.c.tags(r.repo)
}

// rot is CR-13: other bytes are never served as a whole, and are mended from
// what is right, without anybody's help.
func (r *rotten) rot(rnd *rand.Rand) {
	changes := []struct {
		name   string
		change func([]byte) []byte
	}{
		{"flip", func(b []byte) []byte { b[rnd.IntN(len(b))] ^= 1 << rnd.IntN(8); return b }},
		{"cut one", func(b []byte) []byte { return b[:len(b)-1] }},
		{"cut all", func(b []byte) []byte { return nil }},
		{"append", func(b []byte) []byte { return append(b, 'x') }},
	}
	clone := func() error {
		_, err := harness.Git(r.t, "", "", "clone", "--quiet", "--mirror", r.s.URL+"/rotten", filepath.Join(r.t.TempDir(), "clone"))
		return err
	}
	for range rounds(1, 12) {
		for _, tt := range changes {
			info := r.s.Info("rotten")
			rel := info.Tarballs[rnd.IntN(len(info.Tarballs))]
			r.change(rel.SHA256, tt.change)
			if a := r.get(rel); a != nil && a.Status < 500 {
				r.t.Errorf("%s: GET: %d, want an error of ours", tt.name, a.Status)
			}
			r.mended(tt.name, rel)
			r.quarantined(1)
		}
		// Git's copy.
		r.change(r.segment(), changes[0].change)
		r.s.API.Restart() // which may remember what it has read
		r.s.AwaitAPI()
		if clone() == nil {
			r.t.Error("git clone of rotten objects succeeded, want it to fail")
		}
		for _, rel := range r.s.Info("rotten").Tarballs {
			if a := r.get(rel); a.Status != http.StatusOK {
				r.t.Errorf("GET %s with a rotten segment: %d, want 200", rel.URL, a.Status)
			}
		}
		harness.Eventually(r.t, "the segment is mended", func() bool { return clone() == nil })
		r.quarantined(1)
		r.c.tags(r.repo)
		if stdout, stderr, err := harness.Run(r.t, r.s.Env, "verify"); err != nil {
			r.t.Errorf("verify: %v\n%s%s", err, stdout, stderr)
		}
	}
}

// quarantined checks that the quarantine has so many files, and empties it.
func (r *rotten) quarantined(want int) {
	r.t.Helper()
	names, err := filepath.Glob(filepath.Join(r.s.Root, "quarantine", "*"))
	if err != nil {
		r.t.Fatal(err)
	}
	if len(names) != want {
		r.t.Errorf("quarantine has %d files, want %d", len(names), want)
	}
	for _, name := range names {
		if err := os.Remove(name); err != nil {
			r.t.Fatal(err)
		}
	}
}

// segment returns the digest of the package's largest segment.
func (r *rotten) segment() string {
	r.t.Helper()
	known := map[string]bool{}
	info := r.s.Info("rotten")
	for _, rel := range info.Tarballs {
		known[rel.SHA256] = true
	}
	var largest string
	var size int64
	err := filepath.WalkDir(filepath.Join(r.s.Root, "blobs"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || known[d.Name()] {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Size() > size {
			largest, size = d.Name(), info.Size()
		}
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return largest
}

// gone is CR-14 and CR-15: blobs that are not there, or are something else.
func (r *rotten) gone() {
	info := r.s.Info("rotten")
	gone, rest := info.Tarballs[0], info.Tarballs[1:]
	spoil := map[string]func(path string) error{
		"gone":            os.Remove,
		"link":            func(path string) error { return errors.Join(os.Remove(path), os.Symlink("/etc/passwd", path)) },
		"link to another": func(path string) error { return errors.Join(os.Remove(path), os.Symlink(r.path(rest[0].SHA256), path)) },
		"folder":          func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o755)) },
		"pipe":            func(path string) error { return errors.Join(os.Remove(path), syscall.Mkfifo(path, 0o644)) },
	}
	for name, spoil := range spoil {
		path := r.path(gone.SHA256)
		if err := spoil(path); err != nil {
			r.t.Fatal(err)
		}
		if a := r.get(gone); a == nil || a.Status < 500 {
			r.t.Errorf("%s: GET: %v, want an error of ours", name, a)
		}
		for _, rel := range rest {
			if a := r.get(rel); a.Status != http.StatusOK {
				r.t.Errorf("%s: GET of another release: %d, want 200", name, a.Status)
			}
		}
		r.mended(name, gone)
	}
	r.quarantined(len(spoil) - 1)
}
