package storage_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/feed"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/tree"
)

// Whoever may write SQL still cannot change what was published (DB-09, R-01).
func TestReleasesAreFrozen(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.publish("hello", "v1", "v2")
	before := f.rows("releases") + f.rows("changes")

	for _, table := range []string{"releases", "changes"} {
		columns := f.columns(table)
		if len(columns) < 3 {
			t.Fatalf("columns of %s: %q", table, columns)
		}
		for _, column := range columns {
			f.refused(fmt.Sprintf("UPDATE %s SET %s = %s", table, column, column))
			f.refused(fmt.Sprintf("UPDATE %s SET %s = DEFAULT", table, column))
		}
		f.refused("DELETE FROM " + table)
		f.refused("TRUNCATE " + table)
		f.refused("TRUNCATE " + table + " CASCADE")
	}
	f.refused("TRUNCATE packages CASCADE")
	f.refused("TRUNCATE blobs CASCADE")
	f.refused("DELETE FROM packages WHERE name = 'hello'")
	f.refused("DELETE FROM blobs")
	f.refused("UPDATE packages SET name = 'other' WHERE name = 'hello'")
	f.refused("UPDATE blobs SET digest = repeat('0', 64)")

	const columns = `package, tag, tag_oid, commit_oid, tree_oid, commit_time, digest, size, content_digest, md5, crc32, manifest_digest`
	copied := fmt.Sprintf("INSERT INTO releases (%s) SELECT %s FROM releases WHERE tag = 'v1'", columns, columns)
	f.refused(copied)
	for _, column := range strings.Split(columns, ", ") {
		f.refused(fmt.Sprintf("%s ON CONFLICT (package, tag) WHERE tag IS NOT NULL DO UPDATE SET %s = EXCLUDED.%s", copied, column, column))
	}
	f.refused("MERGE INTO releases r USING (SELECT 1) x ON true WHEN MATCHED THEN UPDATE SET size = 1")
	f.refused("INSERT INTO changes (seq, body, chain) SELECT seq, '{}', chain FROM changes")

	if after := f.rows("releases") + f.rows("changes"); after != before {
		t.Errorf("rows now:\n%s\nwant:\n%s", after, before)
	}
}

func (f *fixture) columns(table string) []string {
	f.t.Helper()
	rows, _ := f.sql.Query(f.ctx, `SELECT column_name FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = $1`, table)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	f.must(err)
	return names
}

// rows returns a table as text.
func (f *fixture) rows(table string) string {
	f.t.Helper()
	rows, _ := f.sql.Query(f.ctx, "SELECT t::text FROM "+table+" t ORDER BY 1")
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	f.must(err)
	return strings.Join(all, "\n")
}

// refused checks that the database itself does not do it.
func (f *fixture) refused(sql string) {
	f.t.Helper()
	var pg *pgconn.PgError
	// An integrity violation, a generated column, a referenced table.
	if err := f.exec(sql); !errors.As(err, &pg) || pg.Code[:2] != "23" && pg.Code != "428C9" && pg.Code != "0A000" {
		f.t.Errorf("%s: err = %v, want it refused", sql, err)
	}
}

func TestPublish(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.publish("other", "v1")
	c := f.claim("hello")
	again := publication("hello", "v1", "a")
	again.Release.CreatedAt = again.Release.CreatedAt.Add(time.Hour)
	annotated := publication("hello", "v1", "a")
	annotated.Release.TagOID = hash("tag", 40)
	otherBytes := publication("hello", "v1", "a")
	otherBytes.Release.Digest = hash("other bytes of the same commit", 64)
	badDigest := publication("hello", "bad", "bad")
	badDigest.Release.Digest = strings.ToUpper(badDigest.Release.Digest)
	tests := []struct { // in order: later cases build on earlier ones
		name    string
		pub     storage.Publication
		created bool
		want    error
	}{
		{"new tag", publication("hello", "v1", "a"), true, nil},
		{"same again", publication("hello", "v1", "a"), false, nil},
		{"same again, later", again, false, nil},
		{"same commit, other bytes", otherBytes, false, nil}, // the first stay
		{"moved tag", publication("hello", "v1", "b"), false, fault.ErrConflict},
		{"annotated now", annotated, false, fault.ErrConflict},
		{"second tag of the commit", publication("hello", "v1-again", "a"), true, nil},
		{"snapshot of the commit", publication("hello", "", "a"), true, nil},
		{"same snapshot again", publication("hello", "", "a"), false, nil},
		{"another snapshot", publication("hello", "", "c"), true, nil},
		{"tag in another case", publication("hello", "V1", "d"), true, nil},
		{"not a digest", badDigest, false, fault.ErrInvalid},
		{"unknown package", publication("nope", "v1", "a"), false, fault.ErrNotFound},
	}
	for _, tt := range tests {
		claim := c
		claim.Job.Package = tt.pub.Release.Package
		created, err := f.Publish(f.ctx, claim, tt.pub)
		if f.want(tt.name, err, tt.want); (len(created) > 0) != tt.created {
			t.Errorf("%s: created = %d, want %v", tt.name, len(created), tt.created)
		}
	}
	r, err := f.ReleaseByTag(f.ctx, "hello", "v1")
	f.must(err)
	if want := publication("hello", "v1", "a").Release; r.Digest != want.Digest || !r.CreatedAt.Equal(want.CreatedAt) {
		t.Errorf("v1 is now %+v, want what was published first", r)
	}
	byCommit, err := f.ReleaseByCommit(f.ctx, "hello", r.CommitOID)
	if err != nil || byCommit.ID != r.ID {
		t.Errorf("release of the commit: %+v, %v; want the first of it", byCommit, err)
	}
	for _, zig := range []string{r.ZigHash, r.ZigLegacyHash} {
		if got, err := f.ReleaseByZigHash(f.ctx, zig); err != nil || got.ID != r.ID {
			t.Errorf("release of %s: %+v, %v; want the first of it", zig, got, err)
		}
	}
	_, err = f.ReleaseByZigHash(f.ctx, "")
	f.want("release without a Zig hash", err, fault.ErrNotFound)
	if p := f.pkg("hello"); p.ReleaseCount != 3 || p.SizeBytes != 500 || p.LatestTag == nil || *p.LatestTag != "v1" {
		t.Errorf("package: %d releases, %d bytes, latest %v; want 3, 500, v1", p.ReleaseCount, p.SizeBytes, *p.LatestTag)
	}
}

// A worker whose job was taken over writes nothing any more.
func TestFence(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	trees := tree.New(f.DB.DB)
	old := f.claim("hello")
	f.lose(old)
	if _, err := f.Jobs.Reap(f.ctx); err != nil {
		t.Fatal(err)
	}
	c, err := f.Jobs.Claim(f.ctx, old.Job.ID, "another", time.Minute)
	f.must(err)
	if c.Fence <= old.Fence {
		t.Fatalf("fence %d after %d, want it higher", c.Fence, old.Fence)
	}
	seg := release.Segment{Package: "hello", Objects: 1, Digest: hash("s", 64), IndexDigest: hash("i", 64), Size: 1}
	index := blob.Ref{Digest: hash("i", 64), Size: 1}
	writes := map[string]func(jobs.Claim) error{
		"publish": func(c jobs.Claim) error {
			_, err := f.Publish(f.ctx, c, publication("hello", "v1", "a"))
			return err
		},
		"segment":      func(c jobs.Claim) error { return f.AppendSegment(f.ctx, c, seg, index) },
		"rejected tag": func(c jobs.Claim) error { return f.RejectTag(f.ctx, c, storage.RejectedTag{Tag: "x"}, 0, 0) },
		"moved tag":    func(c jobs.Claim) error { return f.RecordMoves(f.ctx, c, []storage.MovedTag{{Tag: "v1"}}) },
		"sync":         func(c jobs.Claim) error { return f.Jobs.RecordSync(f.ctx, c, jobs.Sync{OK: true}) },
		"freeze":       func(c jobs.Claim) error { return f.Freeze(f.ctx, c, "why") },
		"record":       func(c jobs.Claim) error { return f.SetRecord(f.ctx, c, index) },
		"end with sync": func(c jobs.Claim) error {
			return f.Jobs.End(f.ctx, c, jobs.Outcome{State: jobs.Succeeded, Sync: &jobs.Sync{OK: true}})
		},
		"end":     func(c jobs.Claim) error { return f.Jobs.End(f.ctx, c, jobs.Outcome{State: jobs.Succeeded}) },
		"requeue": func(c jobs.Claim) error { return f.Jobs.Requeue(f.ctx, c, 0, true, "", "") },
		"extend": func(c jobs.Claim) error {
			_, err := f.Jobs.Extend(f.ctx, c, time.Minute, jobs.Progress{})
			return err
		},
		// What has no package to be fenced by is held by the lease.
		"probe": func(c jobs.Claim) error {
			return f.RecordProbe(jobs.WithClaim(f.ctx, c), "hello", storage.Probe{Healthy: true})
		},
		"catalog": func(c jobs.Claim) error {
			_, err := f.Catalog.Replace(jobs.WithClaim(f.ctx, c), "https://h/old.json", hash("old", 64), nil)
			return err
		},
		"tree":       func(c jobs.Claim) error { return trees.Put(jobs.WithClaim(f.ctx, c), "app", 1, tree.Open, nil, nil) },
		"tree check": func(c jobs.Claim) error { return trees.Checked(jobs.WithClaim(f.ctx, c), tree.Node{}, tree.Gone) },
		"archive": func(c jobs.Claim) error {
			_, _, err := trees.Publish(jobs.WithClaim(f.ctx, c), tree.Archive{URL: "https://h/x.zip", Format: "zip", ZigLegacyHash: "1220" + hash("files", 64),
				Digest: hash("body", 64), Size: 1, TarballDigest: hash("flat", 64), TarballSize: 1, RecordDigest: hash("its record", 64), RecordSize: 1}, false)
			return err
		},
		"moved archive": func(c jobs.Claim) error {
			return trees.NoteMove(jobs.WithClaim(f.ctx, c), tree.Archive{URL: "https://h/x.zip", ZigLegacyHash: "1220" + hash("others", 64)})
		},
	}
	_, err = trees.Begin(f.ctx, "app", []tree.Root{{File: "build.zig.zon", Text: ".{}"}}, false)
	f.must(err)
	f.must(trees.Put(f.ctx, "app", 1, tree.Whole, nil, nil))
	all := func() (rows string) {
		for _, table := range []string{"packages", "jobs", "tree_revisions", "archives", "moved_archives", "catalog"} {
			rows += f.rows(table)
		}
		return rows
	}
	before := all()
	for name, write := range writes {
		f.want("stale "+name, write(old), jobs.ErrLost)
	}
	if after := all(); after != before {
		t.Errorf("rows now:\n%s\nwant:\n%s", after, before)
	}
	for _, name := range []string{"probe", "catalog", "tree", "tree check", "archive", "moved archive", "extend", "segment", "publish", "rejected tag", "moved tag", "sync", "record", "freeze", "end with sync"} {
		f.want(name, writes[name](c), nil)
	}
}

func TestLatest(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := f.claim("hello")
	for _, step := range []struct{ tag, latest string }{
		{"nightly", "nightly"}, {"old", "nightly"}, {"nightly-longer", "nightly-longer"}, // by the time of the commit
		{"v0.1.0-rc.1", "v0.1.0-rc.1"}, {"v0.1.0", "v0.1.0"}, {"v0.0.9", "v0.1.0"}, {"v1.0.0-rc.1", "v0.1.0"}, {"0.10.0", "0.10.0"}, {"v0.9.0", "0.10.0"}, {"zzz", "0.10.0"},
	} {
		_, err := f.Publish(f.ctx, c, publication("hello", step.tag, step.tag))
		f.must(err)
		if got := f.pkg("hello").LatestTag; got == nil || *got != step.latest {
			t.Errorf("after %s the latest is %v, want %s", step.tag, *got, step.latest)
		}
	}
}

// The feed of changes has each release once, each link follows from the one
// before, and nobody sees a gap.
// Several releases become visible together or not at all.
func TestPublishTogether(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.publish("hello", "v1")
	c := f.claim("hello")
	pub := func(tag string) storage.Publication { return publication("hello", tag, "hello"+tag) }
	bad := pub("v3")
	bad.Release.Digest = "x"
	_, err := f.DB.Publish(f.ctx, c, pub("v2"), bad)
	f.want("one that cannot be", err, fault.ErrInvalid)
	if p, err := f.PackageByName(f.ctx, "hello"); err != nil || p.ReleaseCount != 1 {
		t.Errorf("%d releases, %v; want the first alone", p.ReleaseCount, err)
	}
	created, err := f.DB.Publish(f.ctx, c, pub("v1"), pub("v2"), pub("v3"))
	f.must(err)
	if len(created) != 2 || created[0].Release.Tag != "v2" || created[1].Release.Tag != "v3" {
		t.Errorf("created = %+v, want v2 and v3", created)
	}
	p, err := f.PackageByName(f.ctx, "hello")
	f.must(err)
	if p.ReleaseCount != 3 || p.LatestTag == nil || *p.LatestTag != "v3" {
		t.Errorf("%d releases, the latest is %v", p.ReleaseCount, p.LatestTag)
	}
}

func TestChanges(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const n = 8
	claims := make([]jobs.Claim, n)
	for i := range n {
		claims[i] = f.claim(fmt.Sprint("p", i))
	}
	errs := at(n, func(i int) error {
		for _, tag := range []string{"v1", "v2", "v3"} {
			if _, err := f.Publish(f.ctx, claims[i], publication(fmt.Sprint("p", i), tag, fmt.Sprint(i, tag))); err != nil {
				return err
			}
		}
		return nil
	})
	f.must(errors.Join(errs...))
	all, head, err := f.Feed.Changes(f.ctx, 0, 100)
	f.must(err)
	if len(all) != 3*n || head.Seq != 3*n {
		t.Fatalf("%d changes, head %d; want %d", len(all), head.Seq, 3*n)
	}
	chain := ""
	for i, c := range all {
		if chain = feed.NextChain(chain, c.Body); c.Chain != chain || c.Seq != int64(i+1) {
			t.Errorf("change %d has number %d and chain %s, want %s", i+1, c.Seq, c.Chain, chain)
		}
	}
	if rest, _, err := f.Feed.Changes(f.ctx, 20, 2); err != nil || len(rest) != 2 || rest[0].Seq != 21 {
		t.Errorf("changes after 20: %+v, %v; want 21 and 22", rest, err)
	}
}

func TestRejectedAndMovedTags(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := f.claim("hello")
	for _, r := range []storage.RejectedTag{{Tag: "b", OID: hash("1", 40), Code: "x"}, {Tag: "a", OID: hash("1", 40), Code: "x"}, {Tag: "b", OID: hash("2", 40), Code: "y", Reason: "z"}} {
		f.must(f.RejectTag(f.ctx, c, r, time.Hour, time.Hour))
	}
	rejected, err := f.RejectedTags(f.ctx, "hello")
	f.must(err)
	if len(rejected) != 2 || rejected[0].Tag != "a" || rejected[1].Code != "y" {
		t.Errorf("rejected %+v, want a, and b as it was the last time", rejected)
	}
	_, err = f.Publish(f.ctx, c, publication("hello", "b", "b"))
	f.must(err)
	if rejected, err = f.RejectedTags(f.ctx, "hello"); err != nil || len(rejected) != 1 {
		t.Errorf("rejected %+v, %v; want a alone, as b is a release now", rejected, err)
	}
	moves := []storage.MovedTag{{Tag: "b", Old: hash("1", 40), New: hash("2", 40)}, {Tag: "b", Old: hash("1", 40)}, {Tag: "c", Old: hash("1", 40)}}
	f.must(f.RecordMoves(f.ctx, c, moves))
	f.must(f.RecordMoves(f.ctx, c, moves[:1])) // seen again
	moved, err := f.MovedTags(f.ctx, "hello")
	f.must(err)
	tags := []string{}
	for _, m := range moved {
		tags = append(tags, m.Tag+m.New)
	}
	if want := []string{"b" + hash("2", 40), "b", "c"}; !slices.Equal(tags, want) || f.pkg("hello").MovedCount != 2 {
		t.Errorf("moved %q, %d tags; want %q, 2 tags", tags, f.pkg("hello").MovedCount, want)
	}
}

// A rejected tag is tried again, less and less often while nothing changes,
// and forgotten when upstream has none of that name.
func TestRejectedTagsAreTriedAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := f.claim("hello")
	r := storage.RejectedTag{Tag: "v1", OID: hash("1", 40), Code: "x", Rules: "1"}
	reject := func(r storage.RejectedTag, want time.Duration) {
		t.Helper()
		f.must(f.RejectTag(f.ctx, c, r, time.Hour, 5*time.Hour))
		all, err := f.RejectedTags(f.ctx, "hello")
		f.must(err)
		if len(all) != 1 || all[0].RetryAt.Sub(all[0].SeenAt) != want || all[0].Rules != r.Rules {
			t.Errorf("rejected %+v, want it tried again after %v", all, want)
		}
	}
	reject(r, time.Hour)
	reject(r, 2*time.Hour)
	reject(r, 4*time.Hour)
	reject(r, 5*time.Hour)
	f.must(f.exec(`UPDATE rejected_tags SET tries = 1000000`))
	reject(r, 5*time.Hour)
	r.Rules = "2"
	reject(r, 5*time.Hour)
	r.Code = "y"
	reject(r, time.Hour)
	reject(r, 2*time.Hour)
	r.OID = hash("2", 40)
	reject(r, time.Hour)

	f.must(f.ForgetRejections(f.ctx, c, []string{"v0", "v1"}))
	if n := f.count(`SELECT count(*) FROM rejected_tags`); n != 1 {
		t.Errorf("%d rejected tags, want the one that upstream lists", n)
	}
	f.must(f.ForgetRejections(f.ctx, c, []string{"v0"}))
	if n := f.count(`SELECT count(*) FROM rejected_tags`); n != 0 {
		t.Errorf("%d rejected tags, want none", n)
	}
}
