package storage_test

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"testing"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/catalog"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/feed"
	"github.com/francescobianco/packbase/storage/jobs"
)

// A renamed package answers to all its names in every way that it is asked
// for, and no name ever means two packages.
func TestRename(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.publish("owner.repo", "v1")
	f.publish("other", "v1")
	f.request("empty")
	p, err := f.Rename(f.ctx, "OWNER.repo", "Nice")
	f.must(err)
	if p.Name != "owner.repo" || p.Called() != "Nice" {
		t.Fatalf("renamed to %q of %q", p.Called(), p.Name)
	}
	rel := publication("owner.repo", "v1", "owner.repov1").Release
	for _, name := range []string{"owner.repo", "Nice", "nice"} {
		if p := f.pkg(name); p.Name != "owner.repo" || p.Called() != "Nice" {
			t.Errorf("%s is %q of %q", name, p.Called(), p.Name)
		}
		got, err := f.ReleaseByTag(f.ctx, name, "v1")
		f.must(err)
		if got.CommitOID != rel.CommitOID || got.Called() != "Nice" {
			t.Errorf("%s@v1 is %s of %q", name, got.CommitOID, got.Called())
		}
		_, err = f.ReleaseByCommit(f.ctx, name, rel.CommitOID)
		f.want("commit of "+name, err, nil)
		if m, err := f.Moment(f.ctx, name); err != nil || len(m.Releases) != 1 {
			t.Errorf("moment of %s: %d releases, %v", name, len(m.Releases), err)
		}
		job, _, err := f.Jobs.RequestProbe(f.ctx, name)
		f.must(err)
		if job.Package != "owner.repo" {
			t.Errorf("probe of %s is one of %q", name, job.Package)
		}
		if of, err := f.Jobs.List(f.ctx, jobs.Filter{Package: name, Limit: 10}); err != nil || len(of) < 2 {
			t.Errorf("%s has %d jobs, %v", name, len(of), err)
		}
		job, _, err = f.RequestFetch(f.ctx, name, upstreamOf("owner.repo"))
		f.must(err)
		if job.Package != "owner.repo" {
			t.Errorf("fetch of %s is one of %q", name, job.Package)
		}
		_, _, err = f.RequestFetch(f.ctx, name, upstreamOf("another"))
		f.want("another upstream claims "+name, err, fault.ErrConflict)
	}

	for _, taken := range []struct {
		pkg, to string
		want    error
	}{
		{"other", "Owner.Repo", fault.ErrConflict}, {"other", "NICE", fault.ErrConflict}, {"owner.repo", "other", fault.ErrConflict},
		{"owner.repo", "empty", fault.ErrConflict}, {"other", "trees", fault.ErrInvalid}, {"other", "a/b", fault.ErrInvalid}, {"other", "", fault.ErrInvalid},
		{"nothing", "y", fault.ErrNotFound}, {"empty", "y", fault.ErrInvalid},
	} {
		_, err := f.Rename(f.ctx, taken.pkg, taken.to)
		f.want(taken.pkg+" to "+taken.to, err, taken.want)
	}
	if f.exec(`INSERT INTO packages (name, upstream, clone_url) VALUES ('nicE', 'x', 'x')`) == nil {
		t.Error("a row took a name that means another package")
	}
	if f.exec(`INSERT INTO package_names (name, package) VALUES ('OTHER', 'owner.repo')`) == nil {
		t.Error("another package's name was taken")
	}
	if f.exec(`DELETE FROM package_names`) == nil || f.exec(`UPDATE package_names SET package = 'other'`) == nil {
		t.Error("a name was forgotten")
	}

	for _, to := range []string{"again", "nice", "owner.repo", "again", "again"} {
		_, err := f.Rename(f.ctx, "nice", to)
		f.must(err)
	}
	if d, err := f.Describe(f.ctx, "again"); err != nil || !slices.Equal(d.Names, []string{"owner.repo", "Nice", "again"}) {
		t.Errorf("names are %q, %v", d.Names, err)
	}
	if news := f.renames(f.ctx); !slices.Equal(news, []string{"Nice", "again", "nice", "owner.repo", "again"}) {
		t.Errorf("edges are told of %q", news)
	}

	_, err = f.Remove(f.ctx, storage.Removal{Package: "again", Reason: "x"})
	f.must(err)
	for _, name := range []string{"owner.repo", "nice", "again"} {
		_, err := f.PackageByName(f.ctx, name)
		f.want(name+" of what was removed", err, fault.ErrGone)
		_, err = f.ReleaseByTag(f.ctx, name, "v1")
		f.want(name+"@v1 of what was removed", err, fault.ErrGone)
		_, err = f.Rename(f.ctx, "other", name)
		f.want("rename to "+name+", which was removed", err, fault.ErrConflict)
	}
	_, err = f.Rename(f.ctx, "nice", "new")
	f.want("rename what was removed", err, fault.ErrGone)
}

// renames returns what the feed tells of new names.
func (f *fixture) renames(ctx context.Context) (all []string) {
	f.t.Helper()
	changes, _, err := f.Feed.Changes(ctx, 0, 1000)
	f.must(err)
	for _, c := range changes {
		raw, _, err := c.Open()
		f.must(err)
		var body feed.Body
		if raw == nil {
			continue
		}
		f.must(json.Unmarshal(raw, &body))
		if body.Renamed != "" {
			all = append(all, body.Renamed)
		}
	}
	return all
}

// Strangers learn nothing of a private package by its new name, until it is
// public; then edges do.
func TestRenamePrivate(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.publish("hidden", "v1")
	f.must(f.SetVisibility(f.ctx, "hidden", true))
	_, err := f.Rename(f.ctx, "hidden", "new")
	f.want("a stranger renames it", err, fault.ErrNotFound)
	sees := access.SeePrivate(f.ctx)
	_, err = f.Rename(sees, "hidden", "new")
	f.must(err)
	for _, name := range []string{"hidden", "new"} {
		_, err = f.PackageByName(f.ctx, name)
		f.want("a stranger sees "+name, err, fault.ErrNotFound)
		_, err = f.ReleaseByTag(f.ctx, name, "v1")
		f.want("a stranger sees a release of "+name, err, fault.ErrNotFound)
		_, err = f.ReleaseByTag(sees, name, "v1")
		f.want("who sees private packages sees "+name, err, nil)
	}
	if d, err := f.Describe(f.ctx, "hidden"); len(d.Names) > 0 || err != nil {
		t.Errorf("a stranger sees the names %q, %v", d.Names, err)
	}
	if listed := f.renames(f.ctx); len(listed) > 0 {
		t.Errorf("edges of strangers are told of %q", listed)
	}
	if listed := f.renames(sees); !slices.Equal(listed, []string{"new"}) {
		t.Errorf("edges with a token are told of %q", listed)
	}
	f.must(f.SetVisibility(sees, "new", false))
	if listed := f.renames(f.ctx); len(listed) == 0 || listed[len(listed)-1] != "new" {
		t.Errorf("edges of a public package are told of %q", listed)
	}
}

// A catalog goes on meaning the package, under the old name and the new one.
func TestRenameAndCatalog(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.catalog(entry("1", "old", "t1"))
	f.publish("old", "v1")
	for _, listed := range []string{"old", "new"} {
		e := entry("1", "old", "t2")
		e.Name = listed
		f.catalog(e)
		_, err := f.Rename(f.ctx, "old", "new")
		f.must(err)
		if !f.pkg("new").Registered {
			t.Errorf("listed as %s it is not registered", listed)
		}
		updated, _, err := f.Catalog.Listed(f.ctx, "old", e.Upstream)
		f.must(err)
		if updated != "t2" {
			t.Errorf("listed as %s it was updated %q, want t2", listed, updated)
		}
		run := f.update()
		if job, _, err := f.AddChild(f.ctx, *run.Job.RunID, catalog.Candidate{ID: "1", Name: listed, Upstream: e.Upstream, CloneURL: e.CloneURL}); err != nil || job.Package != "old" {
			t.Errorf("listed as %s, the fetch is of %q: %v", listed, job.Package, err)
		}
		c := f.claim("old")
		f.must(f.Jobs.End(f.ctx, c, jobs.Outcome{State: jobs.Succeeded, Sync: &jobs.Sync{OK: true, Catalog: updated}}))
		f.end(run, "")
		all, err := f.Catalog.Candidates(f.ctx, "rules")
		f.must(err)
		if len(all) != 1 || !all[0].Fresh {
			t.Errorf("listed as %s: %+v, want it to be fresh", listed, all)
		}
	}
	if n := f.count(`SELECT count(*) FROM packages`); n != 1 {
		t.Errorf("there are %d packages", n)
	}
}

// Of a claim and a rename at once, one gets the name.
func TestRenameRace(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.publish("a", "v1")
	for i := range 20 {
		name := "n" + string(rune('a'+i))
		var wg sync.WaitGroup
		var renamed, claimed error
		wg.Go(func() { _, renamed = f.Rename(f.ctx, "a", name) })
		wg.Go(func() { _, _, claimed = f.RequestFetch(f.ctx, name, upstreamOf("b")) })
		wg.Wait()
		if (renamed == nil) == (claimed == nil) {
			t.Fatalf("%s: renamed %v, claimed %v", name, renamed, claimed)
		}
	}
}

// What a record tells of names is there again after a rebuild.
func TestAdoptNames(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.publish("old", "v1")
	for _, to := range []string{"mid", "new"} {
		_, err := f.Rename(f.ctx, "old", to)
		f.must(err)
	}
	rec, _, err := f.PackageRecord(f.ctx, "old")
	f.must(err)
	g := newFixture(t)
	p := publication("old", "v1", "oldv1")
	p.Upstream, p.CloneURL = rec.Upstream, rec.CloneURL
	g.must(g.Adopt(g.ctx, "old", storage.Adoption{Record: rec, RecordBlob: blob.Ref{Digest: hash("record", 64), Size: 1}, Publications: []storage.Publication{p}}))
	if d, err := g.Describe(g.ctx, "mid"); err != nil || !slices.Equal(d.Names, []string{"old", "mid", "new"}) || g.pkg("old").Called() != "new" {
		t.Errorf("names are %q, %q is shown, %v", d.Names, g.pkg("old").Called(), err)
	}
	if listed := g.renames(g.ctx); len(listed) == 0 || listed[len(listed)-1] != "new" {
		t.Errorf("edges are told of %q", listed)
	}
}
