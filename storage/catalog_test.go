package storage_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/francescobianco/packbase/storage/catalog"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
)

const source = "https://catalog.example/packages.json"

// catalog stores entries as the whole catalog.
func (f *fixture) catalog(entries ...catalog.Entry) catalog.Diff {
	f.t.Helper()
	diff, err := f.Catalog.Replace(f.ctx, source, hash(fmt.Sprint(entries), 64), entries)
	f.must(err)
	return diff
}

// entry is a catalog's entry for a package, as it was at updated.
func entry(id, name, updated string) catalog.Entry {
	up := upstreamOf(name)
	return catalog.Entry{ID: id, Name: name, Upstream: up.Canonical, CloneURL: up.CloneURL, Language: "shell", Updated: updated}
}

func TestStoreCatalog(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	bad := catalog.Entry{ID: "4", Name: "../x", Problem: "that is no name"}
	zig := entry("1", "a", "t1")
	zig.Language = "zig"
	steps := []struct { // in order
		name    string
		entries []catalog.Entry
		want    catalog.Diff
	}{
		{"first", []catalog.Entry{entry("1", "a", "t1"), entry("2", "b", "t1"), bad}, catalog.Diff{Added: 3}},
		{"same again", []catalog.Entry{entry("1", "a", "t1"), entry("2", "b", "t1"), bad}, catalog.Diff{}},
		{"another order", []catalog.Entry{bad, entry("2", "b", "t1"), entry("1", "a", "t1")}, catalog.Diff{}},
		{"one updated", []catalog.Entry{entry("1", "a", "t2"), entry("2", "b", "t1"), bad}, catalog.Diff{Updated: 1}},
		{"one of another language", []catalog.Entry{zig, entry("2", "b", "t1"), bad}, catalog.Diff{Updated: 1}},
		{"one removed, one added", []catalog.Entry{zig, entry("3", "c", ""), bad}, catalog.Diff{Added: 1, Removed: 1}},
		{"two swap their names", []catalog.Entry{entry("3", "a", "t1"), entry("1", "c", ""), bad}, catalog.Diff{Updated: 2}},
		{"one takes another's name", []catalog.Entry{entry("5", "a", "t1"), bad}, catalog.Diff{Added: 1, Removed: 2}},
		{"case of a name", []catalog.Entry{entry("5", "A", "t1"), bad}, catalog.Diff{Updated: 1}},
		{"empty", nil, catalog.Diff{Removed: 2}},
	}
	for _, step := range steps {
		if got := f.catalog(step.entries...); got != step.want {
			t.Errorf("%s: %+v, want %+v", step.name, got, step.want)
		}
	}
}

// A catalog that cannot be stored leaves the last one as it was.
func TestStoreCatalogIsWhole(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.catalog(entry("1", "a", "t1"))
	before := f.rows("catalog_entries") + f.rows("catalog")
	_, err := f.Catalog.Replace(f.ctx, source, hash("x", 64), []catalog.Entry{entry("1", "b", "t2"), entry("2", "B", "t2")})
	f.want("two entries of one name", err, fault.ErrConflict)
	_, err = f.Catalog.Replace(f.ctx, source, hash("x", 64), []catalog.Entry{entry("1", "b\x00", "t2")})
	f.want("text that cannot be stored", err, fault.ErrInvalid)
	if after := f.rows("catalog_entries") + f.rows("catalog"); after != before {
		t.Errorf("stored:\n%s\nwant:\n%s", after, before)
	}
	f.must(f.Catalog.Failed(f.ctx, source, "catalog_unreachable", "it does not answer"))
	digest, err := f.Catalog.Digest(f.ctx, source)
	if problem, at, perr := f.Catalog.State(f.ctx, source); err != nil || perr != nil || digest == "" || problem != "it does not answer" || at == nil {
		t.Errorf("digest %q, problem %q, fetched at %v; want the last good catalog and the reason", digest, problem, at)
	}
	if f.rows("catalog_entries") == "" {
		t.Error("the entries are gone after a failed download")
	}
}

// Registered is what the catalog lists with the package's own upstream.
func TestRegistered(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.publish("a", "v1")
	f.publish("b", "v1")
	f.publish("c", "v1")
	zig, moved := entry("1", "A", "t1"), entry("2", "b", "t1")
	zig.Language = "zig"
	zig.Upstream, zig.CloneURL = upstreamOf("a").Canonical, upstreamOf("a").CloneURL
	moved.Upstream = "https://git.example/somebody/b"
	f.catalog(zig, moved)
	for name, want := range map[string]bool{"a": true, "b": false, "c": false} {
		if p := f.pkg(name); p.Registered != want || name == "a" && p.Language != "zig" {
			t.Errorf("%s: registered %v, language %q; want %v", name, p.Registered, p.Language, want)
		}
	}
	f.catalog()
	if p := f.pkg("a"); p.Registered || p.ReleaseCount != 1 {
		t.Errorf("a: registered %v with %d releases after it left the catalog, want it kept", p.Registered, p.ReleaseCount)
	}
}

// Fresh is only what cannot have changed since a sync that went well.
func TestCandidates(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	sync := func(name string, s jobs.Sync) {
		t.Helper()
		c := f.claim(name)
		f.must(f.Jobs.RecordSync(f.ctx, c, s))
		f.must(f.Jobs.End(f.ctx, c, jobs.Outcome{State: jobs.Succeeded}))
	}
	good, failed := jobs.Sync{OK: true, Catalog: "t1"}, jobs.Sync{Code: "x", Wait: time.Hour}
	f.catalog(entry("1", "new", "t1"), entry("2", "synced", "t1"), entry("3", "empty", "t1"), entry("4", "failed-later", "t1"), entry("5", "no-time", ""),
		entry("6", "frozen", "t1"), entry("7", "changed-meanwhile", "t2"), entry("8", "updated", "t1"), entry("9", "Other-Case", "t1"), entry("10", "rebound", "t1"),
		entry("11", "rejected", "t1"), entry("12", "rejected-for-now", "t1"), entry("13", "rejected-by-other-rules", "t1"), entry("14", "rejected-once", "t1"))
	for _, name := range []string{"synced", "failed-later", "no-time", "frozen", "changed-meanwhile", "updated", "other-case", "rebound", "by-hand",
		"rejected", "rejected-for-now", "rejected-by-other-rules", "rejected-once"} {
		f.publish(name, "v1")
	}
	f.must(f.exec(`UPDATE packages SET upstream = 'https://git.example/owner/Other-Case' WHERE name = 'other-case'`))
	for _, name := range []string{"synced", "empty", "failed-later", "frozen", "updated", "rebound",
		"rejected", "rejected-for-now", "rejected-by-other-rules", "rejected-once"} {
		sync(name, good)
	}
	f.must(f.exec(`INSERT INTO rejected_tags (package, tag, oid, code, reason, rules, retry_at) VALUES
		('rejected', 'v2', '', '', '', 'rules', now() + interval '1 hour'),
		('rejected-for-now', 'v2', '', '', '', 'rules', now()),
		('rejected-by-other-rules', 'v2', '', '', '', 'others', now() + interval '1 hour'),
		('rejected-once', 'v1', '', '', '', 'others', now())`)) // it is a release now
	sync("no-time", jobs.Sync{OK: true})
	sync("changed-meanwhile", good) // it began when the catalog said t1
	sync("failed-later", failed)
	f.must(f.exec(`UPDATE catalog_entries SET synced_updated = 't1' WHERE id = '9'`))
	f.must(f.Freeze(f.ctx, f.claim("frozen"), "why"))
	moved := entry("10", "rebound", "t1")
	moved.Upstream = "https://git.example/somebody/rebound"
	f.catalog(entry("1", "new", "t1"), entry("2", "synced", "t1"), entry("3", "empty", "t1"), entry("4", "failed-later", "t1"), entry("5", "no-time", ""),
		entry("6", "frozen", "t1"), entry("7", "changed-meanwhile", "t2"), entry("8", "updated", "t2"), entry("9", "Other-Case", "t1"), moved,
		entry("11", "rejected", "t1"), entry("12", "rejected-for-now", "t1"), entry("13", "rejected-by-other-rules", "t1"), entry("14", "rejected-once", "t1"))
	f.must(f.exec(`INSERT INTO packages (name, upstream, clone_url) VALUES ('fixture', 'fixture:fixture', 'x')`))

	type verdict struct{ fresh, waiting bool }
	want := map[string]verdict{
		"new": {}, "synced": {fresh: true}, "empty": {}, "failed-later": {waiting: true}, "no-time": {}, "changed-meanwhile": {}, "updated": {},
		"Other-Case": {fresh: true}, "rebound": {}, "frozen": {fresh: true, waiting: true},
		"rejected": {fresh: true}, "rejected-for-now": {}, "rejected-by-other-rules": {}, "rejected-once": {fresh: true},
	}
	candidates, err := f.Catalog.Candidates(f.ctx, "rules")
	f.must(err)
	got := map[string]verdict{}
	for _, c := range candidates {
		got[c.Name] = verdict{c.Fresh, c.Waiting}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("candidates %+v, want %+v", got, want)
	}
	if !slices.IsSortedFunc(candidates, func(a, b catalog.Candidate) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("candidates are not sorted")
	}
}

// What changes often is due sooner than what does not, and that is due in the end.
func TestDueByActivity(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.catalog(entry("1", "active", ""), entry("2", "dormant", ""), entry("3", "new", ""))
	const day = 24 * time.Hour
	for pkg, age := range map[string]time.Duration{"active": day, "dormant": 500 * day} {
		c, p := f.claim(pkg), publication(pkg, "v1", pkg)
		p.Release.CommitTime = time.Now().Add(-age)
		_, err := f.Publish(f.ctx, c, p)
		f.must(err)
		f.end(c, "")
	}
	for since, first := range map[string]string{"1 hour": "active", "20 days": "dormant"} { // of which nobody has looked at dormant
		f.must(f.exec(`UPDATE packages SET synced_at = now() - CASE name WHEN 'active' THEN '1 hour' ELSE $1 END::interval`, since))
		all, err := f.Catalog.Candidates(f.ctx, "rules")
		f.must(err)
		if due := slices.MaxFunc(all, func(a, b catalog.Candidate) int { return cmp.Compare(a.Due, b.Due) }); due.Name != first {
			t.Errorf("%s after the last look at dormant, first is %+v, want %s", since, due, first)
		}
	}
}

// A policy says how long a sync holds, and one that changed is followed at once.
func TestCandidatesOfPolicies(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	with := func(name, updated string, p catalog.Policy) catalog.Entry {
		e := entry(name, name, updated)
		e.Policy = p
		return e
	}
	hourly, branches := catalog.Policy{Refresh: 3600}, catalog.Policy{Branches: catalog.Patterns{"stable"}}
	entries := []catalog.Entry{with("hourly", "t1", hourly), with("hourly-no-time", "", hourly), with("hourly-old", "t1", hourly), with("hourly-updated", "t1", hourly),
		with("hourly-nothing", "t1", hourly), with("branches", "t1", branches), with("branch-by-hand", "t1", catalog.Policy{}), with("changed", "t1", catalog.Policy{}),
		with("hourly-branches", "t1", catalog.Policy{Refresh: 3600, Branches: branches.Branches})}
	f.catalog(entries...)
	for _, e := range entries {
		if e.Name != "hourly-nothing" {
			f.publish(e.Name, "v1")
		}
		s := jobs.Sync{OK: true, Catalog: e.Updated}
		if e.Name == "branch-by-hand" {
			s.Branches = map[string]string{"main": hash("tip", 40)}
		}
		c := f.claim(e.Name)
		f.must(f.Jobs.End(f.ctx, c, jobs.Outcome{State: jobs.Succeeded, Sync: &s}))
	}
	f.must(f.exec(`UPDATE packages SET synced_at = now() - interval '61 minutes' WHERE name = 'hourly-old'`))
	entries[3].Updated, entries[7].Policy = "t2", catalog.Policy{Tags: catalog.Patterns{"v*"}}
	if diff := f.catalog(entries...); diff != (catalog.Diff{Updated: 2}) {
		t.Errorf("diff %+v, want what has another time and what has another policy", diff)
	}
	want := map[string]bool{"hourly": true, "hourly-no-time": true, "hourly-old": false, "hourly-updated": false, "hourly-nothing": false,
		"branches": false, "branch-by-hand": false, "changed": false, "hourly-branches": true}
	all, err := f.Catalog.Candidates(f.ctx, "rules")
	f.must(err)
	got := map[string]bool{}
	for _, c := range all {
		got[c.Name] = c.Fresh
	}
	if !maps.Equal(got, want) {
		t.Errorf("fresh %v, want %v", got, want)
	}
	for upstream, want := range map[string]catalog.Policy{entries[0].Upstream: hourly, "https://git.example/somebody/else": {}} {
		if _, p, err := f.Catalog.Listed(f.ctx, "hourly", upstream); err != nil || !reflect.DeepEqual(p, want) {
			t.Errorf("the policy for %s is %+v, %v; want %+v", upstream, p, err, want)
		}
	}
}

// update claims an update and has its run begin.
func (f *fixture) update() jobs.Claim {
	f.t.Helper()
	job, _, err := f.Jobs.RequestUpdate(f.ctx, 0)
	f.must(err)
	c, err := f.Jobs.Claim(f.ctx, job.ID, "tests", time.Minute)
	f.must(err)
	f.must(f.Jobs.StartRun(f.ctx, c))
	return c
}

func (f *fixture) run() jobs.Run {
	f.t.Helper()
	run, err := f.Jobs.LastRun(f.ctx)
	f.must(err)
	return run
}

// One update waits at most, whoever asks, and however many ask at once.
func TestOneQueuedUpdate(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const n = 30
	for round := range 2 { // without an update, and while one runs
		ids, news := make([]uuid.UUID, n), make([]bool, n)
		f.must(errors.Join(at(n, func(i int) error {
			job, created, err := f.Jobs.RequestUpdate(f.ctx, 0)
			ids[i], news[i] = job.ID, created
			return err
		})...))
		created := 0
		for i := range n {
			if news[i] {
				created++
			}
			if ids[i] != ids[0] {
				t.Errorf("round %d: job %s, want the same for all", round, ids[i])
			}
		}
		if jobs, runs := f.count(`SELECT count(*) FROM jobs`), f.count(`SELECT count(*) FROM runs`); created != 1 || jobs != round+1 || runs != round+1 {
			t.Errorf("round %d: created %d times, %d jobs, %d runs; want 1, %d, %d", round, created, jobs, runs, round+1, round+1)
		}
		if round == 0 {
			_, err := f.Jobs.RunningUpdate(f.ctx)
			f.want("running update", err, fault.ErrNotFound)
			_, err = f.Jobs.Claim(f.ctx, ids[0], "tests", time.Minute)
			f.must(err)
			continue
		}
		_, err := f.Jobs.Claim(f.ctx, ids[0], "tests", time.Minute)
		f.want("claim while one runs", err, jobs.ErrLost)
	}
	running, err := f.Jobs.RunningUpdate(f.ctx)
	f.must(err)
	if open, err := f.Jobs.OpenUpdate(f.ctx); err != nil || open.ID != running.ID {
		t.Errorf("open update %s, %v; want the running one, %s", open.ID, err, running.ID)
	}
}

// Whatever the number of workers, an interval has one update of its own.
func TestRequestDueUpdate(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for want := 1; want <= 2; want++ {
		news := make([]bool, 20)
		f.must(errors.Join(at(len(news), func(i int) (err error) {
			_, news[i], err = f.Jobs.RequestDueUpdate(f.ctx, time.Hour, 0)
			return err
		})...))
		created := 0
		for _, n := range news {
			if n {
				created++
			}
		}
		if runs := f.count(`SELECT count(*) FROM runs`); created != 1 || runs != want {
			t.Errorf("created %d times, %d runs; want 1, %d", created, runs, want)
		}
		f.must(f.exec(`UPDATE runs SET created_at = now() - interval '2 hours'`))
		f.must(f.exec(`UPDATE jobs SET state = 'cancelled', ended_at = now()`))
	}
}

// Whoever asks for an update, it does not begin until the cooldown has passed
// since the one before began.
func TestUpdatesKeepApart(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const cooldown = time.Hour
	for name, request := range map[string]func() (jobs.Job, bool, error){
		"followed": func() (jobs.Job, bool, error) { return f.Jobs.RequestUpdate(f.ctx, cooldown) },
		"interval": func() (jobs.Job, bool, error) { return f.Jobs.RequestDueUpdate(f.ctx, time.Nanosecond, cooldown) },
	} {
		f.must(f.exec(`UPDATE runs SET started_at = now() - interval '2 hours'`)) // the test's first round has none
		first := f.update()
		next, created, err := request()
		f.must(err)
		if run := f.run(); !created || next.RunAt.Sub(*run.StartedAt) != cooldown {
			t.Errorf("%s: the next one (new %v) is due at %v, want it %v after %v", name, created, next.RunAt, cooldown, run.StartedAt)
		}
		if left, err := f.Jobs.Cooling(f.ctx, cooldown); err != nil || left <= cooldown-time.Minute || left > cooldown {
			t.Errorf("%s: cooling %v, %v; want nearly %v", name, left, err, cooldown)
		}
		f.must(f.Jobs.ParkRun(f.ctx, first, jobs.Counters{}))
		f.must(f.Jobs.CloseRuns(f.ctx))
		_, err = f.Jobs.Claim(f.ctx, next.ID, "tests", time.Minute)
		f.want(name+": claim in the cooldown", err, jobs.ErrLost)
		f.must(f.exec(`UPDATE jobs SET state = 'cancelled', ended_at = now() WHERE state = 'queued'`))
	}
}

// An update ends when its last child does, with what they counted together.
func TestRun(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.catalog(entry("1", "a", "t1"), entry("2", "b", "t1"), entry("3", "c", "t1"))
	f.publish("c", "v1")
	// What is under way before the update counts for it, too, whatever it was for.
	asked, begun := f.request("a"), f.claim("c")
	f.must(f.exec(`INSERT INTO runs (state) VALUES ('failed')`))
	f.must(f.exec(`UPDATE jobs SET run_id = (SELECT max(id) FROM runs) WHERE package = 'a'`))
	c := f.update()
	candidates, err := f.Catalog.Candidates(f.ctx, "rules")
	f.must(err)
	for _, cand := range candidates {
		job, created, err := f.AddChild(f.ctx, *c.Job.RunID, cand)
		f.must(err)
		if cand.Name == "a" && (created || job.ID != asked.ID) {
			t.Errorf("child for a: %s, new %v; want the open job", job.ID, created)
		}
	}
	f.publish("by-hand", "v1") // is none of the run's business
	if p := f.pkg("b"); !p.Registered || p.Language != "shell" {
		t.Errorf("b: registered %v, language %q; want what the catalog says", p.Registered, p.Language)
	}
	f.must(f.Jobs.ParkRun(f.ctx, c, jobs.Counters{SourceChanged: true, SourcePackages: 3, SourceAdded: 3, ReposScanned: 3, PackagesTotal: 3}))
	if lost, err := f.Jobs.Reap(f.ctx); err != nil || len(lost) > 0 {
		t.Errorf("reaped %+v, %v; want a parked update left alone", lost, err)
	}
	for i, end := range []struct{ name, code string }{{"a", ""}, {"b", "no_tags"}, {"c", ""}} {
		f.must(f.Jobs.CloseRuns(f.ctx))
		if done, total, err := f.Jobs.RunProgress(f.ctx, *c.Job.RunID); err != nil || done != i || total != 3 || f.run().State != jobs.Running {
			t.Errorf("before %s: %d of %d, %v, run %s; want %d of 3, running", end.name, done, total, err, f.run().State, i)
		}
		child := begun
		if end.name != "c" {
			child = f.claim(end.name)
		}
		o := jobs.Outcome{State: jobs.Succeeded, Created: 2, Present: 1, Sync: &jobs.Sync{OK: true}}
		if end.code != "" {
			o = jobs.Outcome{State: jobs.Failed, Code: end.code, Sync: &jobs.Sync{Code: end.code}}
		}
		f.must(f.Jobs.End(f.ctx, child, o))
	}
	f.must(f.Jobs.CloseRuns(f.ctx))
	run := f.run()
	want := jobs.Counters{SourceChanged: true, SourcePackages: 3, SourceAdded: 3, SourceRepoFailed: 1, ReposScanned: 3, PackagesTotal: 3, PackagesSynced: 2,
		SourceRepoUpdated: 2, PackagesProbed: 2, TarballsCreated: 4, TarballsPresent: 2}
	if run.State != jobs.Succeeded || run.EndedAt == nil || run.Counters != want {
		t.Errorf("run %s with %+v, want it ended with %+v", run.State, run.Counters, want)
	}
	job := f.job(c.Job)
	var result jobs.Counters
	if err := json.Unmarshal(job.Result, &result); err != nil || job.State != jobs.Succeeded || result != want {
		t.Errorf("update %s with %s, want the counters of the run", job.State, job.Result)
	}
	f.must(f.Jobs.CloseRuns(f.ctx)) // again: nothing to do
	_, err = f.Jobs.OpenUpdate(f.ctx)
	f.want("open update", err, fault.ErrNotFound)
}

// An update that fails closes its run as failed, and begins it again when it
// is retried.
func TestRunFails(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := f.update()
	f.end(c, "catalog_unreachable")
	f.must(f.Jobs.CloseRuns(f.ctx))
	if run := f.run(); run.State != jobs.Failed || run.EndedAt == nil {
		t.Errorf("run %s, want failed", run.State)
	}
	job, err := f.Jobs.Retry(f.ctx, c.Job.ID)
	f.must(err)
	if job.RunID == nil || *job.RunID != *c.Job.RunID {
		t.Fatalf("retried update has run %v, want %d", job.RunID, *c.Job.RunID)
	}
	c, err = f.Jobs.Claim(f.ctx, job.ID, "tests", time.Minute)
	f.must(err)
	f.must(f.Jobs.StartRun(f.ctx, c))
	if run := f.run(); run.State != jobs.Running || run.EndedAt != nil {
		t.Errorf("run %s, ended at %v; want it running", run.State, run.EndedAt)
	}
	f.must(f.Jobs.ParkRun(f.ctx, c, jobs.Counters{}))
	_, err = f.Jobs.Cancel(f.ctx, job.ID) // nobody holds it: it ends at once
	f.must(err)
	f.must(f.Jobs.CloseRuns(f.ctx))
	if run := f.run(); run.State != jobs.Failed || f.job(job).State != jobs.Cancelled {
		t.Errorf("run %s of a cancelled update, want failed", run.State)
	}
	next := f.update()
	f.lose(next)
	_, err = f.Jobs.Reap(f.ctx)
	f.must(err)
	f.want("park of a lost update", f.Jobs.ParkRun(f.ctx, next, jobs.Counters{}), jobs.ErrLost)
}

// A child that ends without its worker's word counts, too.
func TestRunCountsLostChildren(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.catalog(entry("1", "a", "t1"), entry("2", "b", "t1"))
	c := f.update()
	candidates, err := f.Catalog.Candidates(f.ctx, "rules")
	f.must(err)
	var children []jobs.Job
	for _, cand := range candidates {
		job, _, err := f.AddChild(f.ctx, *c.Job.RunID, cand)
		f.must(err)
		children = append(children, job)
	}
	f.must(f.Jobs.ParkRun(f.ctx, c, jobs.Counters{}))
	_, err = f.Jobs.Cancel(f.ctx, children[0].ID)
	f.must(err)
	for range jobs.MaxCrashes {
		child, err := f.Jobs.Claim(f.ctx, children[1].ID, "tests", time.Minute)
		f.must(err)
		f.lose(child)
		_, err = f.Jobs.Reap(f.ctx)
		f.must(err)
	}
	f.must(f.Jobs.CloseRuns(f.ctx))
	if run := f.run(); run.State != jobs.Succeeded || run.SourceRepoFailed != 2 {
		t.Errorf("run %s, %d failed; want it ended with 2", run.State, run.SourceRepoFailed)
	}
}

// A catalog cannot take a name from its owner.
func TestChildOfForeignName(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.publish("lib", "v1")
	c := f.update()
	stolen := entry("1", "LIB", "t1")
	stolen.Upstream = "https://git.example/thief/lib"
	f.catalog(stolen)
	_, _, err := f.AddChild(f.ctx, *c.Job.RunID, catalog.Candidate{ID: "1", Name: "LIB", Upstream: stolen.Upstream, CloneURL: stolen.Upstream})
	f.want("child of a foreign name", err, fault.ErrConflict)
	f.must(f.Catalog.Mark(f.ctx, "1", err.Error()))
	if p := f.pkg("lib"); p.Upstream != upstreamOf("lib").Canonical || p.Registered {
		t.Errorf("lib: upstream %s, registered %v; want it as it was", p.Upstream, p.Registered)
	}
	problems, err := f.Catalog.Problems(f.ctx, 10)
	if err != nil || len(problems) != 1 || problems[0].ID != "1" {
		t.Errorf("problems %+v, %v; want the entry with its reason", problems, err)
	}
}

// All workers together ask a host no more often than one would, and than it wants.
func TestHosts(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const n, spacing = 10, time.Minute
	waits := make([]time.Duration, n)
	f.must(errors.Join(at(n, func(i int) (err error) {
		waits[i], err = f.Jobs.ReserveHost(f.ctx, []string{"git.example", "GIT.example"}[i%2], 1, spacing, time.Hour)
		return err
	})...))
	slices.Sort(waits)
	for i, wait := range waits {
		if i > 0 {
			wait -= waits[i-1]
		}
		if least, most := spacing/2, spacing*3/2; i > 0 && wait < least-20*time.Second || wait > most+time.Second {
			t.Errorf("turn %d is %v after the one before, want %v to %v", i, wait, least, most)
		}
	}
	f.must(f.Jobs.PauseHost(f.ctx, "other.example", time.Hour))
	f.must(f.Jobs.PauseHost(f.ctx, "other.example", time.Minute)) // does not shorten it
	turn := func(patience time.Duration) time.Duration {
		t.Helper()
		wait, err := f.Jobs.ReserveHost(f.ctx, "Other.example", 1, time.Millisecond, patience)
		f.must(err)
		return wait
	}
	for range 3 { // who does not wait that long takes nobody's turn
		if wait := turn(time.Minute); wait < 59*time.Minute || wait > time.Hour {
			t.Errorf("turn at a paused host after %v, want an hour", wait)
		}
	}
	pace := func() time.Duration {
		t.Helper()
		first := turn(2 * time.Hour)
		const n = 50
		for range n - 1 {
			turn(2 * time.Hour)
		}
		return (turn(2*time.Hour) - first) / n
	}
	if got := pace(); got < 700*time.Millisecond || got > 1300*time.Millisecond {
		t.Errorf("after a rest, requests are %v apart, want a second", got)
	}
	f.must(f.exec(`UPDATE upstream_hosts SET next_at = now()`))
	f.must(f.Jobs.PauseHost(f.ctx, "other.example", time.Minute))
	f.must(f.Jobs.PauseHost(f.ctx, "other.example", time.Minute)) // of whom it sent away at once
	if got := pace(); got < 1400*time.Millisecond || got > 2600*time.Millisecond {
		t.Errorf("after another rest, requests are %v apart, want two seconds", got)
	}
	f.claim("hello")
	for worker, mine := range map[string]int{"tests": 1, "another": 0} {
		if all, one, err := f.Jobs.RunningAt(f.ctx, "git.example", worker); err != nil || all != 1 || one != mine {
			t.Errorf("%d running there, %d of them of %s, %v; want 1 and %d", all, one, worker, err, mine)
		}
	}
	f.request("first")
	second := f.request("second")
	f.request("third")
	for host, want := range map[string]struct {
		ahead  int
		others bool
	}{"git.example": {1, false}, "other.example": {0, true}} {
		if ahead, others, err := f.Jobs.WaitingAt(f.ctx, host, second.ID); err != nil || ahead != want.ahead || others != want.others {
			t.Errorf("%d wait at %s before the second, others %v, %v; want %+v", ahead, host, others, err, want)
		}
	}
}
