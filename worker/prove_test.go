package worker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/zigpkg"
	"github.com/francescobianco/packbase/worker"
	"github.com/francescobianco/packbase/worker/upkeep"
	"github.com/francescobianco/packbase/worker/workertest"
)

// A fixtureTag is a commit and a lightweight tag of it. A content "-> x" is a symbolic link to x.
type fixtureTag struct {
	tag   string
	files map[string]string
}

// layTags makes the bare repository of pkg.
func layTags(t *testing.T, r *workertest.Registry, pkg string, tags ...fixtureTag) {
	t.Helper()
	bare := filepath.Join(r.Fixtures, pkg+".git")
	var in strings.Builder
	for i, tag := range tags {
		fmt.Fprintf(&in, "commit refs/tags/%s\ncommitter c <c@example.com> %d +0000\ndata 0\n", tag.tag, 1_700_000_000+i)
		for name, content := range tag.files {
			mode := "100644"
			if target, ok := strings.CutPrefix(content, "-> "); ok {
				mode, content = "120000", target
			}
			fmt.Fprintf(&in, "M %s inline %s\ndata %d\n%s\n", mode, name, len(content), content)
		}
	}
	if out, err := exec.Command("git", "init", "-q", "--bare", "-b", "main", bare).CombinedOutput(); err != nil {
		t.Fatalf("git init: %v\n%s", err, out)
	}
	cmd := exec.Command("git", "-C", bare, "fast-import", "--quiet")
	cmd.Stdin = strings.NewReader(in.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git fast-import: %v\n%s", err, out)
	}
}

// zigHash is Zig's hash of files without a manifest.
func zigHash(t *testing.T, files map[string]string) string {
	t.Helper()
	var all []zigpkg.Entry
	for name, content := range files {
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			all = append(all, zigpkg.Entry{Path: name, Hash: zigpkg.HashSymlink(name, target)})
			continue
		}
		hash, size, err := zigpkg.HashFile(name, strings.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, zigpkg.Entry{Path: name, Hash: hash, Size: size})
	}
	return zigpkg.Sum(nil, all).Hash
}

// mirror has the bare repository of pkg mirrored, and returns the releases.
func mirror(t *testing.T, r *workertest.Registry, pkg string) []storage.Release {
	t.Helper()
	if job := r.Fetch(pkg); job.State != jobs.Succeeded {
		t.Fatalf("fetch %s: %s %s: %s", pkg, job.State, job.ErrorCode, job.ErrorMessage)
	}
	return r.Mirror(pkg)
}

// A package whose tags have a file and a link of the same bytes does not get the
// hash of somebody else's package.
func TestZigHashIsNotHijacked(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	victim := map[string]string{"a.txt": "payload"}
	evil := map[string]string{"a.txt": "-> payload"}
	var tags []fixtureTag
	for i := range 20 { // a few are built at once: the last one after the others
		tags = append(tags, fixtureTag{fmt.Sprintf("v1.0.%d", i), map[string]string{"a.txt": "payload", "b.txt": fmt.Sprint(i)}})
	}
	layTags(t, r, "evil", append(tags, fixtureTag{"v2.0.0", evil})...)
	layTags(t, r, "victim", fixtureTag{"v1.0.0", victim})
	r.Work()

	releases := mirror(t, r, "evil")
	if got, want := releases[len(tags)].ZigHash, zigHash(t, evil); got != want {
		t.Errorf("evil@v2.0.0 has the Zig hash %s, want %s", got, want)
	}
	hash := zigHash(t, victim)
	if rel, err := r.ReleaseByZigHash(t.Context(), hash); !errors.Is(err, fault.ErrNotFound) {
		t.Errorf("before the victim is here: %s@%s, %v, want none", rel.Package, rel.Tag, err)
	}
	mirror(t, r, "victim")
	if rel, err := r.ReleaseByZigHash(t.Context(), hash); err != nil || rel.Package != "victim" {
		t.Errorf("the victim's hash is answered with %s@%s, %v", rel.Package, rel.Tag, err)
	}
	rebuilt := workertest.New(t)
	a := upkeep.Auditor{DB: rebuilt.DB, Blobs: r.Blobs, Staging: r.Staging, Report: func(f upkeep.Finding) { t.Errorf("rebuild: %+v", f) }}
	r.Must(a.Rebuild(t.Context()))
	if rel, err := rebuilt.ReleaseByZigHash(t.Context(), hash); err != nil || rel.Package != "victim" {
		t.Errorf("rebuilt, the victim's hash is answered with %s@%s, %v", rel.Package, rel.Tag, err)
	}
	if rel, err := rebuilt.ReleaseByTag(t.Context(), "evil", "v2.0.0"); err != nil || rel.ZigHash != zigHash(t, evil) {
		t.Errorf("rebuilt, evil@v2.0.0 has the Zig hash %s, %v", rel.ZigHash, err)
	}
}

// What the child says of a release and its files belie is not published.
func TestLyingChild(t *testing.T) {
	t.Parallel()
	lies := map[string]string{
		"what the tag names":   `s/("tags":\{"v1.0.0":")../\1ff/`,
		"what is to be v1.0.0": `s/("roots":\[\{"tag":"v1.0.0","oid":")../\1ff/`,
		"the tag":              `s/("roots":\[\{"tag":")v1.0.0/\1v9.9.9/`,
		"nothing":              ``,
	}
	for name, lie := range lies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := workertest.New(t)
			layTags(t, r, "hello", fixtureTag{"v1.0.0", map[string]string{"a.txt": "payload"}})
			said := filepath.Join(t.TempDir(), "said")
			r.Work(func(o *worker.Options) {
				honest := o.Child
				o.Child = func(ctx context.Context, name string) *exec.Cmd {
					child := honest(ctx, name)
					if name != "ingest" {
						return child
					}
					cmd := exec.CommandContext(ctx, "/bin/sh", "-c", `"$0" | tee "$1.honest" | sed -E "$2" | tee "$1"`, child.Path, said, lie)
					cmd.Env = child.Env
					return cmd
				}
			})
			job := r.Fetch("hello")
			honest, err := os.ReadFile(said + ".honest")
			if err != nil {
				t.Fatal(err)
			}
			lied, err := os.ReadFile(said)
			if err != nil {
				t.Fatal(err)
			}
			if (string(lied) == string(honest)) != (lie == "") {
				t.Fatalf("the child said %s", lied)
			}
			releases, err := r.Releases(t.Context(), "hello")
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case lie == "" && (job.State != jobs.Succeeded || len(releases) != 1):
				t.Errorf("an honest child: job %s, %q, %d releases", job.State, job.ErrorMessage, len(releases))
			case lie != "" && (job.ErrorCode != "ingest_untrue" || len(releases) != 0):
				t.Errorf("job %s, %s %q, %d releases, want none and ingest_untrue", job.State, job.ErrorCode, job.ErrorMessage, len(releases))
			}
		})
	}
}
