package api_test

import (
	"bufio"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage/jobs"
)

// Whoever was told that something is done finds it in the list and in the
// status, however lately others have looked at these.
func TestWhatIsDoneIsSeen(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	read := func() (packages []string, body statusAnswer) {
		var list struct{ Packages []string }
		g.get("/api/list").into(t, &list)
		g.get("/api/status").into(t, &body)
		return list.Packages, body
	}
	wantPackage := func(pkg string, how string) {
		t.Helper()
		if packages, status := read(); !slices.Contains(packages, pkg) || status.PackagesTotal != len(packages) {
			t.Errorf("%s: list has %q and status counts %d, want %s", how, packages, status.PackagesTotal, pkg)
		}
	}

	read()
	if a := g.post("/api/update", ""); a.StatusCode != http.StatusAccepted {
		t.Fatalf("update: status = %d, want 202", a.StatusCode)
	}
	if _, status := read(); status.Update.State != jobs.Queued {
		t.Errorf("an update was started and status says %q, want queued", status.Update.State)
	}

	for _, pkg := range []string{"waited", "followed", "asked"} {
		a := g.post("/api/fetch", `{"url":"`+upstreamOf(t, pkg).Canonical+`"}`)
		var job struct {
			JobID string `json:"job_id"`
		}
		a.into(t, &job)
		path := "/api/jobs/" + job.JobID
		var readers sync.WaitGroup
		readers.Go(func() {
			switch pkg {
			case "waited":
				g.post("/api/fetch?wait=60", `{"url":"`+upstreamOf(t, pkg).Canonical+`"}`)
			case "followed":
				g.awaitEvent(path, jobs.Succeeded)
			case "asked":
				for !strings.Contains(string(g.get(path).body), `"succeeded"`) {
					time.Sleep(time.Millisecond)
				}
			}
		})
		// Others look all the time.
		stop := make(chan struct{})
		var others sync.WaitGroup
		others.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					read()
				}
			}
		})
		g.publish(pkg, tagged{tag: "v1.0.0", files: zon(pkg, "1.0.0")})
		readers.Wait()
		wantPackage(pkg, pkg)
		close(stop)
		others.Wait()
	}
}

// Who waits for a job is told how it ended, though Postgres was away for a moment.
func TestWaitsWhilePostgresIsAway(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	c := g.claim("hello")
	behind, postgres := g.gated()
	told := make(chan string, 1)
	go func() {
		told <- behind.post("/api/fetch?wait=300", `{"url":"`+upstreamOf(t, "hello").Canonical+`"}`).code()
	}()
	eventually(t, "somebody waits", func() bool { return behind.server.Followers() == 1 })
	postgres.hold(true)
	select {
	case code := <-told:
		t.Fatalf("who waits is told %s as soon as Postgres is away", code)
	case <-time.After(5 * time.Second): // a question gives up after three
	}
	postgres.hold(false)
	g.must(g.db.Jobs.End(t.Context(), c, jobs.Outcome{State: jobs.Failed, Code: "no_tags", Message: "there are none"}))
	if code := <-told; code != "no_tags" {
		t.Errorf("who waits is told %s, want how the job ended", code)
	}
}

// A job is found by the last digits of its id, if these are one job's only.
func TestShortJobID(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	first, second := g.claim("hello").Job.ID.String(), g.claim("other").Job.ID.String()
	short := first[len(first)-8:]
	var got struct{ ID string }
	for _, path := range []string{"/api/jobs/" + short, "/jobs/" + short} {
		a := g.get(path)
		if a.into(t, &got); a.StatusCode != http.StatusOK || got.ID != first {
			t.Errorf("%s: %d, the job %s, want %s", path, a.StatusCode, got.ID, first)
		}
	}
	if a := g.post("/api/jobs/"+short+"/cancel", ""); a.StatusCode != http.StatusOK && a.StatusCode != http.StatusAccepted {
		t.Errorf("cancel: %d %s", a.StatusCode, a.body)
	}
	for _, id := range []string{"ABCDEF01", second[len(second)-7:], second[len(second)-9:], "zzzzzzzz"} {
		if a := g.get("/api/jobs/" + id); a.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d, want 404", id, a.StatusCode)
		}
	}
	_, err := g.db.Pool.Exec(t.Context(), `UPDATE jobs SET id = (left(id::text, 28) || $2)::uuid WHERE id = $1`, second, short)
	g.must(err)
	if a := g.get("/api/jobs/" + short); a.StatusCode != http.StatusNotFound || !strings.Contains(string(a.body), "several") {
		t.Errorf("two jobs that end alike: %d %s", a.StatusCode, a.body)
	}
}

// What many follow, a job or the feed, costs Postgres what it costs when one
// does, and all of them hear of what comes.
func TestManyFollowers(t *testing.T) {
	t.Parallel()
	const n = 300
	g := newRegistry(t)
	c := g.claim("hello")
	path := "/api/jobs/" + c.Job.ID.String()
	behind, postgres := g.gated()
	var readers sync.WaitGroup
	for i := range n {
		readers.Go(func() {
			if i%3 == 0 {
				behind.get("/api/changes?wait=60") // edges wait, too
			} else if i%3 == 1 {
				behind.awaitEvent(path, jobs.Failed)
			} else if a := behind.post("/api/fetch?wait=300", `{"url":"`+upstreamOf(t, "hello").Canonical+`"}`); a.code() != "no_tags" {
				t.Errorf("who waits gets %d %s, want the error no_tags", a.StatusCode, a.body)
			}
		})
	}
	// All are there when nothing but looks at the job and the feed is asked any more.
	const most = 30 // a second: 10 for the job, 4 for the feed, and room
	rate := float64(n)
	for deadline := time.Now().Add(time.Minute); rate > most && time.Now().Before(deadline); {
		before, start := postgres.asked.Load(), time.Now()
		time.Sleep(2 * time.Second)
		rate = float64(postgres.asked.Load()-before) / time.Since(start).Seconds()
	}
	if rate > most {
		t.Errorf("%d followers ask Postgres %.0f times a second, want at most %d", n, rate, most)
	}
	g.must(g.db.Jobs.End(t.Context(), c, jobs.Outcome{State: jobs.Failed, Code: "no_tags", Message: "there are none"}))
	g.publish("other", tagged{tag: "v1.0.0", files: zon("other", "1.0.0")})
	readers.Wait()
}

type statusAnswer struct {
	PackagesTotal int `json:"packages_total"`
	Update        struct{ State string }
}

// awaitEvent follows a job until it is in the state.
func (g *registry) awaitEvent(path, state string) {
	g.t.Helper()
	resp, err := http.Get(g.url + path + "/events")
	if err != nil {
		g.t.Error(err)
		return
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if strings.Contains(lines.Text(), `"state":"`+state+`"`) {
			return
		}
	}
	g.t.Errorf("the events of %s ended before it was %s", path, state)
}

// What is told of a package is what is committed, whoever committed it, while others ask for the same all the time.
func TestInfoIsWhatIsCommitted(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	g.publish("hot", tagged{tag: "v1.0.0", files: zon("hot", "1.0.0")})
	stop := make(chan struct{})
	var others sync.WaitGroup
	for range 4 {
		others.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					g.get("/api/info/hot")
				}
			}
		})
	}
	defer others.Wait()
	defer close(stop)
	for i := range 10 {
		tag := fmt.Sprintf("v1.%d.0", i+1)
		g.publish("hot", tagged{tag: tag, files: zon("hot", tag[1:])})
		var info struct {
			LatestTag string `json:"latest_tag"`
		}
		if g.get("/api/info/hot").into(t, &info); info.LatestTag != tag {
			t.Fatalf("%s was published, and info says that %s is the newest", tag, info.LatestTag)
		}
	}
}
