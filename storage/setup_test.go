package storage_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/storagetest"
)

// A fixture is a database of a test's own, also as whoever may write SQL
// sees it.
type fixture struct {
	*storage.DB
	t   testing.TB
	ctx context.Context
	sql *pgxpool.Pool
	url string // of the owner
}

// Migrate is the owner's.
func (f *fixture) Migrate(ctx context.Context) error {
	owner, err := storage.Open(ctx, f.url)
	if err != nil {
		return err
	}
	defer owner.Close()
	return owner.Migrate(ctx)
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	url := storagetest.NewURL(t)
	f := &fixture{t: t, ctx: t.Context(), url: url}
	storagetest.Migrate(t, url)
	var err error
	f.DB, err = storage.Open(t.Context(), storagetest.AsServer(t, url))
	f.must(err)
	t.Cleanup(f.DB.Close)
	f.sql, err = pgxpool.New(t.Context(), url)
	f.must(err)
	t.Cleanup(f.sql.Close)
	return f
}

func (f *fixture) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// want checks which of the package's errors err is; nil for none.
func (f *fixture) want(what string, err, want error) {
	f.t.Helper()
	if !errors.Is(err, want) {
		f.t.Errorf("%s: err = %v, want %v", what, err, want)
	}
}

// exec runs SQL that the package itself would not.
func (f *fixture) exec(sql string, args ...any) error {
	_, err := f.sql.Exec(f.ctx, sql, args...)
	return err
}

// count returns what a SELECT of one number returns.
func (f *fixture) count(sql string, args ...any) (n int) {
	f.t.Helper()
	f.must(f.sql.QueryRow(f.ctx, sql, args...).Scan(&n))
	return n
}

// upstreamOf returns https://git.example/owner/pkg.
func upstreamOf(pkg string) name.Upstream {
	u := "https://git.example/owner/" + pkg
	return name.Upstream{Canonical: u, CloneURL: u, Name: pkg}
}

// request requests a fetch of pkg from its upstream.
func (f *fixture) request(pkg string) jobs.Job {
	f.t.Helper()
	job, _, err := f.RequestFetch(f.ctx, pkg, upstreamOf(pkg))
	f.must(err)
	return job
}

// claim requests a fetch of pkg and claims it.
func (f *fixture) claim(pkg string) jobs.Claim {
	f.t.Helper()
	c, err := f.Jobs.Claim(f.ctx, f.request(pkg).ID, "tests", time.Minute)
	f.must(err)
	return c
}

// end ends a claimed job: well, or with a code.
func (f *fixture) end(c jobs.Claim, code string) {
	f.t.Helper()
	o := jobs.Outcome{State: jobs.Succeeded}
	if code != "" {
		o = jobs.Outcome{State: jobs.Failed, Code: code, Message: "the test wants it so"}
	}
	if c.Job.Kind == jobs.FetchPackage {
		o.Sync = &jobs.Sync{OK: code == "", Code: code, Message: o.Message, Wait: time.Hour}
	}
	f.must(f.Jobs.End(f.ctx, c, o))
}

// lose has the claim's lease run out.
func (f *fixture) lose(c jobs.Claim) {
	f.t.Helper()
	f.must(f.exec(`UPDATE jobs SET lease_until = now() - interval '1 second' WHERE id = $1`, c.Job.ID))
}

func (f *fixture) job(j jobs.Job) jobs.Job {
	f.t.Helper()
	now, err := f.Jobs.ByID(f.ctx, j.ID)
	f.must(err)
	return now
}

func (f *fixture) pkg(name string) storage.Package {
	f.t.Helper()
	p, err := f.PackageByName(f.ctx, name)
	f.must(err)
	return p
}

// hash returns n hex digits that stand for text.
func hash(text string, n int) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])[:n]
}

// publication returns a release whose ids all stand for content. Its commit
// is a day later for each letter of the tag.
func publication(pkg, tag, content string) storage.Publication {
	at := time.Date(2025, 1, 1+len(tag), 0, 0, 0, 0, time.UTC)
	return storage.Publication{
		Release: storage.Release{
			Package: pkg, Tag: tag, CommitOID: hash("commit "+content, 40), TreeOID: hash("tree "+content, 40), CommitTime: at,
			Digest: hash("tarball "+content, 64), Size: 100, ContentDigest: hash("tar "+content, 64), MD5: hash("md5 "+content, 32), CRC32: hash("crc "+content, 8),
			ManifestDigest: hash("manifest "+pkg+tag+content, 64), ZigHash: "zig-" + hash(content, 8), ZigLegacyHash: "1220" + hash(content, 64), CreatedAt: at,
		},
		Pack:     storage.Pack{Bitmap: []byte{1}, Objects: 3, Size: 50, Trailer: make([]byte, 20)},
		Manifest: blob.Ref{Digest: hash("manifest "+pkg+tag+content, 64), Size: 10},
	}
}

// publish publishes tags of pkg in a job of its own.
func (f *fixture) publish(pkg string, tags ...string) {
	f.t.Helper()
	c := f.claim(pkg)
	for _, tag := range tags {
		created, err := f.Publish(f.ctx, c, publication(pkg, tag, pkg+tag))
		f.must(err)
		if len(created) != 1 {
			f.t.Errorf("publish %s@%s: not created", pkg, tag)
		}
	}
	f.end(c, "")
}

// at runs fn n times at once and returns the errors.
func at(n int, fn func(i int) error) []error {
	errs := make([]error, n)
	var ready, done sync.WaitGroup
	start := make(chan struct{})
	ready.Add(n)
	for i := range n {
		done.Go(func() {
			ready.Done()
			<-start
			errs[i] = fn(i)
		})
	}
	ready.Wait()
	close(start)
	done.Wait()
	return errs
}
