package faults

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/storagetest"
	"github.com/francescobianco/packbase/tests/harness"
)

// settleTime is how long after a fault all work may take to end, where a test
// has short leases.
const settleTime = 10 * time.Second

// A checker holds one packbase to the invariants of the test plan, and to
// what it has said before.
type checker struct {
	t    *testing.T
	s    *harness.Server
	away bool // the database is at times: 503 is an answer

	mu     sync.Mutex
	ledger map[string]string // what clients were told, by what they asked
	repos  map[string]*harness.Repo

	archives map[string]string // SHA-256 of upstream's tar streams, by commit
}

func newChecker(t *testing.T, s *harness.Server) *checker {
	return &checker{t: t, s: s, ledger: map[string]string{}, repos: map[string]*harness.Repo{}, archives: map[string]string{}}
}

// see notes what a client was told. Whatever was said once must be said again
// whenever the same is asked (I3).
func (c *checker) observe(value string, asked ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	what := strings.Join(asked, " ")
	if before, ok := c.ledger[what]; ok && before != value {
		c.t.Errorf("I3: %s = %s, was %s before", what, value, before)
	}
	c.ledger[what] = value
}

func (c *checker) observeRelease(pkg string, r wire.Tarball) {
	c.observe(r.SHA256+" "+r.Commit+" "+r.Tree+" "+r.TagObject+" "+r.Zig.Hash, "info", pkg, r.Tag)
}

// know adds packages to those that are checked.
func (c *checker) know(repos ...*harness.Repo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, repo := range repos {
		c.repos[filepath.Base(repo.Dir)] = repo
	}
}

// settled waits until all jobs have ended and checks I1, and that they ended
// well.
func (c *checker) settled(most time.Duration, ids ...string) {
	c.t.Helper()
	for _, id := range ids {
		var job wire.Job
		harness.Within(c.t, most, "I1: job "+id+" has ended", func() bool {
			job = c.s.Job(id)
			return !job.Open()
		})
		if job.State != jobs.Succeeded {
			c.t.Errorf("job of %s %s: %s %s, want success", job.Package, job.State, job.Error.Code, job.Error.Message)
		}
	}
}

// clean checks what the rows, the blobs and the folders look like when nothing
// is going on: I4 and I5.
func (c *checker) clean() {
	c.t.Helper()
	if stdout, stderr, err := harness.Run(c.t, c.s.Env, "fsck"); err != nil {
		c.t.Errorf("I4, I5: fsck: %v\n%s%s", err, stdout, stderr)
	}
	c.emptyStaging()
	c.onlyBlobs()
}

func (c *checker) emptyStaging() {
	c.t.Helper()
	for _, dir := range []string{"staging", "quarantine"} {
		left, err := os.ReadDir(filepath.Join(c.s.Root, dir))
		if err != nil {
			c.t.Fatal(err)
		}
		for _, entry := range left {
			c.t.Errorf("I4: %s/%s is left", dir, entry.Name())
		}
	}
}

var blobName = regexp.MustCompile(`^([0-9a-f]{2})/([0-9a-f]{2})[0-9a-f]{62}$`)

func (c *checker) onlyBlobs() {
	c.t.Helper()
	blobs := filepath.Join(c.s.Root, "blobs")
	err := filepath.WalkDir(blobs, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(blobs, path)
		if m := blobName.FindStringSubmatch(name); m == nil || m[1] != m[2] {
			c.t.Errorf("I4: blobs/%s is no blob", name)
		}
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// complete checks I2: every tag of a package that is visible is complete on
// all surfaces, and equal to upstream's. It returns how many there are.
func (c *checker) complete(repo *harness.Repo) int {
	c.t.Helper()
	pkg := filepath.Base(repo.Dir)
	answer := c.s.Do(http.MethodGet, "/api/info/"+pkg, "", nil)
	if answer.Status == http.StatusNotFound {
		return 0
	}
	var info harness.Info
	answer.Into(c.t, &info)
	if len(info.Tarballs) == 0 {
		return 0
	}
	clone := filepath.Join(c.t.TempDir(), pkg)
	c.git("", "clone", "--quiet", "--mirror", c.s.URL+"/git/"+pkg, clone)
	c.git(clone, "fsck", "--strict", "--full")
	refs := c.refs(clone)
	want := c.refs(repo.Dir)
	for _, r := range info.Tarballs {
		c.observeRelease(pkg, r)
		if got, want := c.tarball(pkg, r), c.archive(repo, r.Commit); got != want {
			c.t.Errorf("I2: tar stream of %s@%s is %s, upstream's %s", pkg, r.Tag, got, want)
		}
		if got := refs[r.Tag]; got != want[r.Tag] || !strings.HasSuffix(got, " "+r.Commit+" "+r.Tree) {
			c.t.Errorf("I2: clone of %s has %s at %q, upstream at %q, info at %s", pkg, r.Tag, got, want[r.Tag], r.Tree)
		}
	}
	if len(refs) != len(info.Tarballs) {
		c.t.Errorf("I2: Git shows %d tags of %s, info %d", len(refs), pkg, len(info.Tarballs))
	}
	return len(info.Tarballs)
}

// refs returns the object, the commit and the tree of each tag.
func (c *checker) refs(dir string) map[string]string {
	c.t.Helper()
	refs := map[string]string{}
	var in strings.Builder
	var tags []string
	for line := range strings.Lines(c.git(dir, "for-each-ref", "--format=%(refname:short) %(objectname)", "refs/tags")) {
		tag, oid, _ := strings.Cut(strings.TrimSpace(line), " ")
		tags = append(tags, tag)
		refs[tag] = oid
		fmt.Fprintf(&in, "%s^{commit}\n%s^{tree}\n", oid, oid)
	}
	out, err := harness.Git(c.t, dir, in.String(), "cat-file", "--batch-check=%(objectname)")
	if err != nil {
		c.t.Fatal(err)
	}
	for n, oid := range strings.Fields(out) {
		refs[tags[n/2]] += " " + oid
	}
	return refs
}

// archive returns the SHA-256 of what git archive makes of upstream's commit.
func (c *checker) archive(repo *harness.Repo, commit string) string {
	c.t.Helper()
	if c.archives[commit] == "" {
		c.archives[commit] = sum([]byte(c.git(repo.Dir, "archive", "--format=tar", commit)))
	}
	return c.archives[commit]
}

// releases checks that what info says is what is served, as it was before.
func (c *checker) releases(pkg string, info harness.Info) {
	c.t.Helper()
	for _, r := range info.Tarballs {
		c.observeRelease(pkg, r)
		c.tarball(pkg, r)
	}
}

// tarball checks a release's tarball and manifest and returns the SHA-256 of
// the tar stream.
func (c *checker) tarball(pkg string, r wire.Tarball) string {
	c.t.Helper()
	b := c.s.Get(r.URL)
	c.observe(sum(b), "tarball", pkg, r.Tag)
	if sum(b) != r.SHA256 {
		c.t.Errorf("I2: tarball of %s@%s is %s, info says %s", pkg, r.Tag, sum(b), r.SHA256)
	}
	raw := c.s.Get(strings.TrimSuffix(r.URL, ".tar.gz") + ".json")
	c.observe(sum(raw), "manifest", pkg, r.Tag)
	var man release.Manifest
	if err := json.Unmarshal(raw, &man); err != nil {
		c.t.Fatal(err)
	}
	if man.Tarball.Digest != r.SHA256 || man.Commit != r.Commit || man.Tree != r.Tree {
		c.t.Errorf("I2: manifest of %s@%s has %+v, info %+v", pkg, r.Tag, man, r)
	}
	zr, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		c.t.Fatalf("I2: tarball of %s@%s: %v", pkg, r.Tag, err)
	}
	content := sha256.New()
	if _, err := io.Copy(content, zr); err != nil {
		c.t.Fatalf("I2: tarball of %s@%s: %v", pkg, r.Tag, err)
	}
	got := hex.EncodeToString(content.Sum(nil))
	if got != man.Tarball.ContentDigest {
		c.t.Errorf("I2: content of %s@%s is %s, the manifest says %s", pkg, r.Tag, got, man.Tarball.ContentDigest)
	}
	return got
}

// clone clones the newest release of a package as a user would.
func (c *checker) clone(repo *harness.Repo) {
	c.t.Helper()
	pkg := filepath.Base(repo.Dir)
	info := c.s.Info(pkg)
	dir := filepath.Join(c.t.TempDir(), pkg)
	c.git("", "clone", "--quiet", "--branch", info.LatestTag, c.s.URL+"/"+pkg, dir)
	latest := info.Release(c.t, info.LatestTag)
	if got := strings.TrimSpace(c.git(dir, "rev-parse", "HEAD^{tree}")); got != latest.Tree {
		c.t.Errorf("I2: git clone --branch %s of %s has the tree %s, info says %s", info.LatestTag, pkg, got, latest.Tree)
	}
	if got := c.git(dir, "status", "--porcelain"); got != "" {
		c.t.Errorf("I2: git clone --branch %s of %s is not as committed:\n%s", info.LatestTag, pkg, got)
	}
}

func (c *checker) git(dir string, args ...string) string {
	c.t.Helper()
	out, err := harness.Git(c.t, dir, "", args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// tags checks that every tag of a repository is there and complete.
func (c *checker) tags(repos ...*harness.Repo) {
	c.t.Helper()
	for _, repo := range repos {
		want := strings.Count(repo.Git("tag", "--list")+"\n", "\n")
		if got := c.complete(repo); got != want {
			c.t.Errorf("%s has %d releases, want %d", filepath.Base(repo.Dir), got, want)
		}
	}
}

// rebuilt checks that the blobs alone give the same rows again, also with what
// crashes have left among them.
func (c *checker) rebuilt() {
	c.t.Helper()
	fresh := storagetest.NewURL(c.t)
	env := append(c.s.Env[:len(c.s.Env):len(c.s.Env)], "PACKBASE_DATABASE_URL="+fresh)
	if stdout, stderr, err := harness.Run(c.t, env, "rebuild"); err != nil {
		c.t.Fatalf("rebuild: %v\n%s%s", err, stdout, stderr)
	}
	want, got := c.rows(c.s.DatabaseURL), c.rows(fresh)
	if len(want) == 0 || !slices.Equal(got, want) {
		c.t.Errorf("rebuilt %d releases, want %d: %s", len(got), len(want), cmp.Diff(want, got))
	}
}

// repaired checks that tarballs and manifests give all segments again, also
// those of jobs that were cut short.
func (c *checker) repaired() {
	c.t.Helper()
	conn, err := pgx.Connect(c.t.Context(), c.s.DatabaseURL)
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	rows, _ := conn.Query(c.t.Context(), `SELECT digest FROM segments UNION SELECT index_digest FROM segments`)
	digests, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		c.t.Fatal(err)
	}
	for _, digest := range digests {
		if err := os.Remove(filepath.Join(c.s.Root, "blobs", digest[:2], digest)); err != nil {
			c.t.Error(err)
		}
	}
	if stdout, stderr, err := harness.Run(c.t, c.s.Env, "verify", "--repair"); err != nil || len(digests) == 0 {
		c.t.Errorf("verify --repair without %d segments: %v\n%s%s", len(digests), err, stdout, stderr)
	}
}

// rows returns all releases of a database as text.
func (c *checker) rows(url string) []string {
	c.t.Helper()
	conn, err := pgx.Connect(c.t.Context(), url)
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	rows, _ := conn.Query(c.t.Context(), `
		SELECT concat_ws(' ', r.package, r.tag, r.commit_oid, r.tag_oid, r.digest, r.manifest_digest, r.zig_hash, r.created_at,
			p.objects, encode(p.trailer, 'hex'))
		FROM releases r JOIN packs p ON p.release_id = r.id ORDER BY r.package, r.tag, r.commit_oid`)
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		c.t.Fatal(err)
	}
	return all
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// tagReleases fills a repository with tags in one go: v0.<first>.0 and so on, each
// with a file of its own that is size bytes long and does not compress, and
// one that changes a little.
func tagReleases(t *testing.T, repo *harness.Repo, first, tags, size int) {
	t.Helper()
	var in strings.Builder
	noise := noise(filepath.Base(repo.Dir), first)
	for n := first; n < first+tags; n++ {
		fmt.Fprintf(&in, "commit refs/heads/main\ncommitter c <c@example.com> %d +0000\ndata 2\nc\n", 1_700_000_000+n*86_400)
		if n == first && first > 0 {
			fmt.Fprintf(&in, "from refs/heads/main^0\n")
		}
		file := func(name, content string) {
			fmt.Fprintf(&in, "M 100644 inline %s\ndata %d\n%s\n", name, len(content), content)
		}
		file("README.md", fmt.Sprintf("%s at %d\n", filepath.Base(repo.Dir), n))
		file("src/data.bin", noise(size))
		file("src/root.zig", strings.Repeat("// all the same\n", 1000)+fmt.Sprintf("pub const n = %d;\n", n))
		if n%2 == 0 {
			fmt.Fprintf(&in, "reset refs/tags/v0.%d.0\nfrom refs/heads/main\n\n", n)
		} else {
			fmt.Fprintf(&in, "tag v0.%d.0\nfrom refs/heads/main\ntagger c <c@example.com> 1700000000 +0000\ndata 2\nt\n", n)
		}
	}
	repo.GitInput(in.String(), "fast-import", "--quiet")
}

// noise returns a source of bytes that do not compress, the same for the same
// seed.
func noise(seed string, n int) func(size int) string {
	var key [32]byte
	copy(key[:], fmt.Sprintf("%d %s", n, seed))
	src := rand.NewChaCha8(key)
	return func(size int) string {
		b := make([]byte, size)
		_, _ = src.Read(b) // cannot fail
		return string(b)
	}
}
