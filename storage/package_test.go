package storage_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/catalog"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/feed"
	"github.com/francescobianco/packbase/storage/jobs"
)

// Of all who claim a name at once for upstreams of their own, one gets it
// (IM-03, R-06).
func TestNameIsClaimedOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const n = 50
	spellings := []string{"lib", "Lib", "LIB", "liB"}
	winners := 0
	for i, err := range at(n, func(i int) error {
		_, _, err := f.RequestFetch(f.ctx, spellings[i%len(spellings)], upstreamOf(fmt.Sprint("owner", i)))
		return err
	}) {
		var bound *fault.BoundError
		switch {
		case err == nil:
			winners++
		case !errors.As(err, &bound) || !errors.Is(err, fault.ErrConflict) || bound.Upstream != f.pkg("lib").Upstream || bound.Package != f.pkg("lib").Name:
			t.Errorf("claim %d: %v, want a conflict that names the owner", i, err)
		}
	}
	if winners != 1 {
		t.Errorf("%d winners, want 1", winners)
	}
	if packages, jobs := f.count(`SELECT count(*) FROM packages`), f.count(`SELECT count(*) FROM jobs`); packages != 1 || jobs != 1 {
		t.Errorf("%d packages and %d jobs, want 1 of each", packages, jobs)
	}
}

// A name goes to another upstream only when nobody can depend on it yet.
func TestRebind(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other := upstreamOf("other")
	fail := func(name string) {
		c := f.claim(name)
		f.must(f.RejectTag(f.ctx, c, storage.RejectedTag{Tag: "v1", OID: hash("1", 40), Code: "x"}, time.Hour, time.Hour))
		f.end(c, "not_found")
	}
	tests := []struct {
		name   string
		before func(name string)
		want   error
	}{
		{"never-claimed", func(string) {}, nil},
		{"being-fetched", func(name string) { f.claim(name) }, fault.ErrConflict},
		{"not-looked-at-yet", func(name string) {
			_, err := f.Jobs.Cancel(f.ctx, f.request(name).ID)
			f.must(err)
		}, fault.ErrConflict},
		{"empty-but-there", func(name string) { f.end(f.claim(name), "") }, fault.ErrConflict},
		{"mistyped", fail, nil},
		{"mistyped-and-asked-for-again", func(name string) { fail(name); f.request(name) }, fault.ErrConflict},
		{"vanished", func(name string) { f.publish(name, "v1"); fail(name) }, fault.ErrConflict},
		{"under-review", func(name string) {
			c := f.claim(name)
			f.must(f.Freeze(f.ctx, c, "why"))
			f.end(c, "package_frozen")
		}, fault.ErrConflict},
		{"in-the-catalog", func(name string) {
			f.catalog(catalog.Entry{ID: "1", Name: name, Upstream: upstreamOf(name).Canonical, CloneURL: "x"})
			fail(name)
		}, fault.ErrConflict},
		{"in-the-catalog-with-another-upstream", func(name string) {
			f.catalog(catalog.Entry{ID: "1", Name: name, Upstream: other.Canonical, CloneURL: other.CloneURL})
			fail(name)
		}, nil},
	}
	for _, tt := range tests {
		tt.before(tt.name)
		_, _, err := f.RequestFetch(f.ctx, tt.name, other)
		f.want(tt.name, err, tt.want)
		owner := upstreamOf(tt.name).Canonical
		if tt.want == nil {
			owner = other.Canonical
		}
		if got := f.pkg(tt.name); got.Upstream != owner {
			t.Errorf("%s: upstream %s, want %s", tt.name, got.Upstream, owner)
		} else if tt.want == nil && (got.SyncAt != nil || got.SyncOK != nil || got.SyncFailures != 0 || got.NextSyncAt != nil || got.SyncCode != "") {
			t.Errorf("%s: %+v, want nothing left of the old upstream's failures", tt.name, got)
		}
		if rejected, err := f.RejectedTags(f.ctx, tt.name); err != nil || tt.want == nil && len(rejected) > 0 {
			t.Errorf("%s: rejected %+v, %v; want none of the old upstream's tags", tt.name, rejected, err)
		}
	}
}

// A worker that still talks to the old upstream cannot publish under the name.
func TestRebindFencesOldUpstream(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	old := f.claim("lib")
	f.must(f.Jobs.RecordSync(f.ctx, old, jobs.Sync{Code: "not_found"}))
	f.must(f.exec(`UPDATE jobs SET state = 'failed', ended_at = now(), lease = NULL, lease_until = NULL`))
	_, _, err := f.RequestFetch(f.ctx, "lib", upstreamOf("other"))
	f.must(err)
	_, err = f.Publish(f.ctx, old, publication("lib", "v1", "a"))
	f.want("publish by the old claim", err, jobs.ErrLost)
}

// A failure is never taken for freshness.
func TestRecordSync(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := f.claim("hello")
	f.must(f.Jobs.RecordSync(f.ctx, c, jobs.Sync{OK: true, Branches: map[string]string{"main": hash("tip", 40)}}))
	good := f.pkg("hello")
	if good.SyncOK == nil || !*good.SyncOK || good.SyncedAt == nil || good.NextSyncAt != nil || good.SyncFailures != 0 {
		t.Fatalf("after a good sync: %+v", good)
	}
	for i := 1; i <= 3; i++ {
		f.must(f.Jobs.RecordSync(f.ctx, c, jobs.Sync{Code: "upstream_unreachable", Message: "why", Wait: time.Hour}))
		p := f.pkg("hello")
		if *p.SyncOK || p.SyncFailures != i || p.SyncCode != "upstream_unreachable" || !p.SyncedAt.Equal(*good.SyncedAt) || p.SyncAt.Before(*good.SyncAt) ||
			p.NextSyncAt == nil || time.Until(*p.NextSyncAt) < 50*time.Minute {
			t.Errorf("after failure %d: %+v, want it counted and synced_at as it was", i, p)
		}
	}
	if tip, err := f.BranchCommit(f.ctx, "hello", "main"); err != nil || tip != hash("tip", 40) {
		t.Errorf("branch at %s, %v; want it where it was", tip, err)
	}
	f.must(f.Jobs.RecordSync(f.ctx, c, jobs.Sync{OK: true, Branches: map[string]string{"main": hash("newer", 40)}}))
	if p := f.pkg("hello"); !*p.SyncOK || p.SyncFailures != 0 || p.NextSyncAt != nil || p.SyncCode != "" {
		t.Errorf("after a good sync again: %+v, want no trace of failures", p)
	}
	if tip, err := f.BranchCommit(f.ctx, "hello", "main"); err != nil || tip != hash("newer", 40) {
		t.Errorf("branch at %s, %v; want the newer commit", tip, err)
	}
	_, err := f.BranchCommit(f.ctx, "hello", "nope")
	f.want("branch that nobody asked for", err, fault.ErrNotFound)
}

func TestReview(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.publish("Hello", "v1")
	c := f.claim("Hello")
	f.must(f.RecordMoves(f.ctx, c, []storage.MovedTag{{Tag: "v1", Old: hash("1", 40), New: hash("2", 40)}}))
	f.want("review of a package that is active", f.Review(f.ctx, "hello", true), fault.ErrConflict)
	f.want("review of no package", f.Review(f.ctx, "nope", true), fault.ErrNotFound)
	f.must(f.Freeze(f.ctx, c, "all tags moved"))
	if p := f.pkg("hello"); p.State != storage.Frozen || p.StateReason != "all tags moved" {
		t.Errorf("frozen: %s, %s", p.State, p.StateReason)
	}
	f.must(f.Review(f.ctx, "hello", false))
	if p := f.pkg("hello"); p.State != storage.Frozen || p.StateReason == "all tags moved" {
		t.Errorf("kept: %s, %s; want it frozen with another reason", p.State, p.StateReason)
	}
	f.must(f.Review(f.ctx, "HELLO", true))
	moved, err := f.MovedTags(f.ctx, "Hello")
	if p := f.pkg("hello"); err != nil || p.State != storage.Active || p.StateReason != "" || len(moved) != 1 || !moved[0].Accepted {
		t.Errorf("accepted: %s, moves %+v, %v; want it active and the move known", p.State, moved, err)
	}
}

// What a package is frozen for decides something, so the schema knows the
// sentences that are written.
func TestFrozenFor(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.publish("hello", "v1")
	c := f.claim("hello")
	f.must(f.Freeze(f.ctx, c, storage.FrozenPrivate))
	if p := f.pkg("hello"); p.FrozenFor != "private" || !p.AwaitsReview() {
		t.Errorf("frozen for %q, awaits review %t, want private and true", p.FrozenFor, p.AwaitsReview())
	}
	f.must(f.Review(f.ctx, "hello", false))
	if p := f.pkg("hello"); p.FrozenFor != "kept" || p.AwaitsReview() {
		t.Errorf("frozen for %q, awaits review %t, want kept and false", p.FrozenFor, p.AwaitsReview())
	}
	f.must(f.Freeze(f.ctx, c, storage.FrozenPrivate))
	f.must(f.Review(f.ctx, "hello", true))
	p, err := f.PackageByName(access.SeePrivate(f.ctx), "hello")
	if err != nil || !p.Private || p.FrozenFor != "" {
		t.Errorf("accepted: private %t, frozen for %q, %v; want true and nothing", p.Private, p.FrozenFor, err)
	}
}

// What keeps packages in memory sees every change.
func TestChangedPackages(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.publish("a", "v1")
	f.publish("b", "v1")
	all, err := f.ChangedPackages(f.ctx, time.Hour)
	if err != nil || len(all) != 2 {
		t.Fatalf("changed in an hour: %d, %v; want 2", len(all), err)
	}
	f.must(f.exec(`ALTER TABLE packages DISABLE TRIGGER packages_changed`))
	f.must(f.exec(`UPDATE packages SET changed_at = now() - interval '2 hours'`))
	f.must(f.exec(`ALTER TABLE packages ENABLE TRIGGER packages_changed`))
	f.must(f.RecordProbe(f.ctx, "a", storage.Probe{Healthy: true, SmartHTTPReady: true, ProbeCommit: hash("c", 40)}))
	changed, err := f.ChangedPackages(f.ctx, time.Hour)
	if err != nil || len(changed) != 1 || changed[0].Name != "a" || !changed[0].Healthy || changed[0].ProbedAt == nil {
		t.Errorf("changed in an hour: %+v, %v; want a, which is healthy", changed, err)
	}
	if changed, err := f.ChangedPackages(f.ctx, 0); err != nil || len(changed) != 0 {
		t.Errorf("changed in no time: %+v, %v; want none", changed, err)
	}
}

// HEAD is where it was after a rebuild, too, when its branch has gone back upstream and no branch is there any more.
func TestAdoptHead(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	all := []storage.Publication{publication("hello", "", "older"), publication("hello", "", "newer")}
	all[1].Release.CommitTime = all[1].Release.CommitTime.Add(time.Hour)
	c := f.claim("hello")
	for i := range all {
		_, err := f.Publish(f.ctx, c, all[i])
		f.must(err)
	}
	for _, p := range []storage.Publication{all[1], all[0]} {
		f.must(f.Jobs.RecordSync(f.ctx, c, jobs.Sync{OK: true, Branches: map[string]string{"main": p.Release.CommitOID}}))
	}
	rec, _, err := f.PackageRecord(f.ctx, "hello")
	f.must(err)
	// A record is made before the sync of its job is: what that says of branches may be newer.
	for _, tt := range []struct{ head, want string }{{rec.Head, all[1].Release.CommitOID}, {"", all[0].Release.CommitOID}, {hash("lost", 40), all[0].Release.CommitOID}} {
		g, one := newFixture(t), *rec
		one.Head = tt.head
		for i := range all {
			all[i].Upstream, all[i].CloneURL = rec.Upstream, rec.CloneURL
		}
		g.must(g.Adopt(g.ctx, "hello", storage.Adoption{Record: &one, RecordBlob: blob.Ref{Digest: hash("record", 64), Size: 1}, Publications: all}))
		if got := g.pkg("hello").HeadOID; got != tt.want {
			t.Errorf("HEAD is at %.7s after a rebuild from a record with %.7s, want %.7s", got, tt.head, tt.want)
		}
	}
	if was := f.pkg("hello").HeadOID; was != all[1].Release.CommitOID {
		t.Errorf("HEAD is at %.7s, want %.7s", was, all[1].Release.CommitOID)
	}
}

// HEAD of a package without releases goes with the branch that was asked for last. What strangers pull, and what is followed
// because it is here, leaves it there, and sets it where there is none. A rebuild gives the same, and edges are told.
func TestHead(t *testing.T) {
	t.Parallel()
	f, edge := newFixture(t), newFixture(t)
	var all []storage.Publication
	first, there := f.claim("hello"), edge.claim("hello")
	for i := range 10 {
		p := publication("hello", "", fmt.Sprint("commit ", i))
		p.Release.CommitTime = p.Release.CommitTime.Add(time.Duration(i) * time.Hour)
		all = append(all, p)
		_, err := f.Publish(f.ctx, first, p)
		f.must(err)
		_, err = edge.Publish(f.ctx, there, p)
		f.must(err)
		all[i].Upstream, all[i].CloneURL = upstreamOf("hello").Canonical, upstreamOf("hello").CloneURL
	}
	f.end(first, "")
	ask := func(target string, pull bool) jobs.Job {
		up, request := upstreamOf("hello"), f.RequestFetch
		if up.Target = target; pull {
			request = f.RequestPull
		}
		job, _, err := request(f.ctx, "hello", up)
		f.must(err)
		return job
	}
	for _, step := range []struct {
		what      string
		target    string
		pull      bool
		joined    bool // by somebody with a token
		branch    string
		at        int
		listed    bool
		head      int
		of        string
		announced string // "" if edges are told nothing
	}{
		{what: "the first", target: "main", pull: true, branch: "main", at: 0, head: 0, of: "main", announced: "main"},
		{what: "a stranger's at the same commit", target: "dev", pull: true, branch: "dev", at: 0, head: 0, of: "main", announced: "dev aside"},
		{what: "a stranger's", target: "dev", pull: true, branch: "dev", at: 2, head: 0, of: "main", announced: "dev aside"},
		{what: "a stranger's of HEAD's", target: "main", pull: true, branch: "main", at: 1, head: 1, of: "main", announced: "main"},
		{what: "followed because it is here", branch: "dev", at: 3, head: 1, of: "main", announced: "dev aside"},
		{what: "asked for", target: "dev", branch: "dev", at: 3, head: 3, of: "dev", announced: "dev"},
		{what: "no news", target: "dev", branch: "dev", at: 3, head: 3, of: "dev"},
		{what: "a stranger's of what was asked for before", target: "main", pull: true, branch: "main", at: 4, head: 3, of: "dev", announced: "main aside"},
		{what: "a stranger's of what was asked for last", target: "dev", pull: true, branch: "dev", at: 5, head: 5, of: "dev", announced: "dev"},
		{what: "in the catalog", branch: "main", at: 6, listed: true, head: 6, of: "main", announced: "main"},
		{what: "a stranger's that was asked for meanwhile", target: "dev", pull: true, joined: true, branch: "dev", at: 7, head: 7, of: "dev", announced: "dev"},
		{what: "back in time", target: "dev", branch: "dev", at: 3, head: 7, of: "dev", announced: "dev"},
	} {
		c, err := f.Jobs.Claim(f.ctx, ask(step.target, step.pull).ID, "tests", time.Minute)
		f.must(err)
		if step.joined {
			ask(step.target, false)
		}
		sync := jobs.Sync{OK: true, Branches: map[string]string{step.branch: all[step.at].Release.CommitOID}}
		if step.listed {
			sync.Listed = []string{step.branch}
		}
		want := [2]string{all[step.head].Release.CommitOID, step.of}
		after, of, err := f.Jobs.HeadAfter(f.ctx, c, sync)
		f.must(err)
		before := f.changes()
		f.must(f.Jobs.End(f.ctx, c, jobs.Outcome{State: jobs.Succeeded, Sync: &sync}))
		f.must(f.AnnounceBranches(f.ctx))
		told := ""
		if now := f.changes(); len(now) > len(before) {
			news := now[len(now)-1]
			told = news.Branch + map[bool]string{true: " aside"}[news.Aside]
			f.must(edge.FollowBranch(f.ctx, "hello", storage.Branch{Name: news.Branch, Commit: news.Commit}, news.Aside))
		}
		if told != step.announced {
			t.Errorf("%s: edges are told %q, want %q", step.what, told, step.announced)
		}
		rec, _, err := f.PackageRecord(f.ctx, "hello")
		f.must(err)
		g := newFixture(t)
		g.must(g.Adopt(g.ctx, "hello", storage.Adoption{Record: rec, RecordBlob: blob.Ref{Digest: hash("record", 64), Size: 1}, Publications: all}))
		for where, got := range map[string][2]string{
			"here": {f.pkg("hello").HeadOID, f.pkg("hello").HeadBranch}, "foreseen": {after, of},
			"at an edge": {edge.pkg("hello").HeadOID, edge.pkg("hello").HeadBranch}, "rebuilt": {g.pkg("hello").HeadOID, g.pkg("hello").HeadBranch},
		} {
			if got != want {
				t.Errorf("%s: HEAD is at %.7s with %s %s, want %.7s with %s", step.what, got[0], got[1], where, want[0], want[1])
			}
		}
	}
}

// changes returns what edges are told.
func (f *fixture) changes() (all []feed.Body) {
	f.t.Helper()
	rows, _ := f.sql.Query(f.ctx, `SELECT COALESCE(news, body) FROM changes ORDER BY seq`)
	texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
	f.must(err)
	for _, text := range texts {
		var body feed.Body
		f.must(json.Unmarshal([]byte(text), &body))
		all = append(all, body)
	}
	return all
}
