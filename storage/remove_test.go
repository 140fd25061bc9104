package storage_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/catalog"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
)

// A removal is for good: nothing serves what was removed, nothing publishes
// it again, and the latest release is the next one.
func TestRemove(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.publish("hello", "v1", "v2", "v3")
	c := f.claim("hello")
	same := publication("hello", "typo", "hellov3") // another tag of v3's commit
	_, err := f.Publish(f.ctx, c, same)
	f.must(err)
	f.end(c, "")

	for _, bad := range []storage.Removal{
		{Package: "hello", Tag: "v3"}, {Package: "hello", Tag: "v3", Reason: " "}, {Package: "hello", Tag: "v3", Reason: strings.Repeat("x", 501)},
	} {
		_, err := f.Remove(f.ctx, bad)
		f.want("without a good reason", err, fault.ErrInvalid)
	}
	_, err = f.Remove(f.ctx, storage.Removal{Package: "hello", Tag: "v9", Reason: "x"})
	f.want("what is not there", err, fault.ErrNotFound)

	done, err := f.Remove(f.ctx, storage.Removal{Package: "hello", Tag: "v3", Reason: "it held a key"})
	f.must(err)
	if len(done.Releases) != 1 || len(done.Left) != 1 || done.Left[0] != "typo" {
		t.Errorf("removed %v, left %v, want v3, and typo left", done.Releases, done.Left)
	}
	if p := f.pkg("hello"); *p.LatestTag != "v2" || p.ReleaseCount != 3 || p.SizeBytes != 300 {
		t.Errorf("package = %s %d %d, want v2 to be the latest of three", *p.LatestTag, p.ReleaseCount, p.SizeBytes)
	}
	_, err = f.ReleaseByTag(f.ctx, "hello", "v3")
	f.want("by tag", err, fault.ErrGone)
	_, err = f.ReleaseByCommit(f.ctx, "hello", same.Release.CommitOID)
	f.want("by commit, whose path must not change", err, fault.ErrGone)
	_, err = f.ReleaseByZigHash(f.ctx, same.Release.ZigHash)
	f.want("by hash, which another release has", err, nil)
	_, err = f.Remove(f.ctx, storage.Removal{Package: "hello", Tag: "v3", Reason: "x"})
	f.want("again", err, fault.ErrGone)

	done, err = f.Remove(f.ctx, storage.Removal{Package: "hello", Commit: same.Release.CommitOID, Reason: "all of it"})
	f.must(err)
	if len(done.Releases) != 1 || len(done.Left) != 0 {
		t.Errorf("removed %v, left %v, want typo, and nothing left", done.Releases, done.Left)
	}
	_, err = f.ReleaseByZigHash(f.ctx, same.Release.ZigHash)
	f.want("by hash", err, fault.ErrGone)
	_, err = f.BlobByDigest(f.ctx, same.Release.Digest)
	f.want("by digest", err, fault.ErrGone)

	c = f.claim("hello")
	for _, tag := range []string{"v3", "typo", "", "v3.1"} {
		_, err := f.Publish(f.ctx, c, publication("hello", tag, "hellov3"))
		f.want("publish the removed commit as "+tag, err, fault.ErrGone)
	}
	_, err = f.Publish(f.ctx, c, publication("hello", "v3", "other"))
	f.want("publish other bytes under the removed tag", err, fault.ErrGone)
	f.end(c, "")
	if f.exec(`DELETE FROM tombstones`) == nil || f.exec(`UPDATE tombstones SET reason = 'x'`) == nil {
		t.Error("a tombstone was changed or deleted")
	}
	named, err := f.Scrub.Named(f.ctx)
	f.must(err)
	if _, ok := named[same.Release.Digest]; ok {
		t.Error("a removed release keeps its bytes")
	}
	f.must(f.Scrub.Forget(f.ctx)) // its row stays, and so does the blob's
	if problems, err := f.Inconsistencies(f.ctx); err != nil || len(problems) > 0 {
		t.Errorf("inconsistencies = %v, %v", problems, err)
	}
}

// Whoever has a name next does not show everybody the jobs of a private package that had it before.
func TestFreedNameTellsNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for called, free := range map[string]func() error{
		"removed": func() error {
			_, err := f.Remove(access.SeePrivate(f.ctx), storage.Removal{Package: "removed", Reason: "asked for"})
			return err
		},
		"claimed": func() error { return nil },
	} {
		for _, private := range []bool{true, false} {
			f.end(f.claim(called), "no_releases")
			f.must(f.exec(`UPDATE packages SET private = $2 WHERE name = $1`, called, private))
			f.must(free())
			job, _, err := f.RequestFetch(f.ctx, called, upstreamOf("another"))
			f.must(err)
			want := 2
			if private {
				want = 1
			}
			if n := f.count(`SELECT count(*) FROM jobs WHERE package = $1`, called); n != want {
				t.Errorf("%s, private %v: %d jobs, want %d", called, private, n, want)
			}
			f.must(f.exec(`DELETE FROM jobs WHERE id = $1`, job.ID))
			f.must(f.exec(`DELETE FROM packages WHERE name = $1`, called))
		}
	}
}

// A name is free again only when nothing was ever published under it.
func TestRemovePackage(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.publish("used", "v1")
	f.claim("used")
	f.end(f.claim("empty"), "upstream_not_found")
	for called, freed := range map[string]bool{"used": false, "empty": true} {
		done, err := f.Remove(f.ctx, storage.Removal{Package: strings.ToUpper(called), Reason: "asked for"})
		f.must(err)
		if done.Freed != freed || done.Package != called {
			t.Errorf("%s: freed %v, want %v", called, done.Freed, freed)
		}
		want := fault.ErrGone
		if freed {
			want = fault.ErrNotFound
		}
		_, err = f.PackageByName(f.ctx, called)
		f.want(called, err, want)
		if !freed {
			for _, up := range []name.Upstream{upstreamOf(called), upstreamOf("another")} {
				_, _, err = f.RequestFetch(f.ctx, called, up)
				f.want("ask for the name again", err, fault.ErrGone)
			}
			continue
		}
		_, _, err = f.RequestFetch(f.ctx, called, upstreamOf("another"))
		f.want("ask for the free name", err, nil)
	}
	_, err := f.ReleaseByTag(f.ctx, "used", "v1")
	f.want("its release", err, fault.ErrGone)
	if n := f.count(`SELECT count(*) FROM releases`); n != 1 {
		t.Errorf("%d rows of releases, want the one to stay", n)
	}
	if cands, err := f.Catalog.Candidates(f.ctx, ""); err != nil || slices.ContainsFunc(cands, func(c catalog.Candidate) bool { return c.Name == "used" }) {
		t.Errorf("candidates = %v, %v, want the removed package not to be one", cands, err)
	}
}

// What was removed does not come back under another name of its upstream, and
// who removes it learns where it is served besides.
func TestRemovedUnderAnotherName(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.publish("hello", "v1", "v2", "v3")
	claim := func(name, upstream string) jobs.Claim {
		job, _, err := f.RequestFetch(f.ctx, name, upstreamOf(upstream))
		f.must(err)
		c, err := f.Jobs.Claim(f.ctx, job.ID, "tests", time.Minute)
		f.must(err)
		return c
	}
	again, fork := claim("again", "hello"), claim("fork", "fork")
	_, err := f.Publish(f.ctx, again, publication("again", "v2", "hellov2"))
	f.must(err)
	f.must(f.SetVisibility(f.ctx, "hello", true))
	for tag, left := range map[string]string{"v1": "", "v2": "again@v2"} {
		done, err := f.Remove(access.SeePrivate(f.ctx), storage.Removal{Package: "hello", Tag: tag, Reason: "it held a key"})
		f.must(err)
		if got := strings.Join(done.Left, " "); got != left {
			t.Errorf("left of %s: %q, want %q", tag, got, left)
		}
	}
	_, err = f.Publish(f.ctx, again, publication("again", "v1", "hellov1"))
	f.want("under another name", err, fault.ErrGone)
	if err != nil && (strings.Contains(err.Error(), "hello") || strings.Contains(err.Error(), "key")) {
		t.Errorf("the error tells of a private package: %v", err)
	}
	_, err = f.Publish(f.ctx, again, publication("again", "v1", "another commit"))
	f.want("another commit of that tag", err, nil)
	_, err = f.Publish(f.ctx, again, publication("again", "v3", "hellov3"))
	f.want("what was not removed", err, nil)
	_, err = f.Publish(f.ctx, fork, publication("fork", "v1", "hellov1"))
	f.want("another upstream", err, nil)

	f.publish("twice", "v1")
	twice := claim("twice", "twice")
	_, err = f.Publish(f.ctx, twice, publication("twice", "alias", "twicev1"))
	f.must(err)
	thrice := claim("thrice", "twice")
	_, err = f.Remove(f.ctx, storage.Removal{Package: "twice", Tag: "v1", Reason: "a broken name"})
	f.must(err)
	_, err = f.Publish(f.ctx, thrice, publication("thrice", "v1", "twicev1"))
	f.want("a tag whose commit another one serves", err, fault.ErrGone)
	_, err = f.Publish(f.ctx, thrice, publication("thrice", "alias", "twicev1"))
	f.want("the other tag", err, nil)

	done, err := f.Remove(access.SeePrivate(f.ctx), storage.Removal{Package: "hello", Reason: "all of it"})
	f.must(err)
	if got := strings.Join(done.Left, " "); got != "again@v3" {
		t.Errorf("left of the package: %q, want again@v3", got)
	}
}
