package edges

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/francescobianco/packbase/storage/blob/blobtest"
	"github.com/francescobianco/packbase/storage/queue/queuetest"
	"github.com/francescobianco/packbase/storage/storagetest"
	"github.com/francescobianco/packbase/tests/harness"
)

// A matrix is what a packbase answers in each state of each part.
type matrix struct {
	t   *testing.T
	s   *harness.Server
	pkg string // has releases
	url string // of a new upstream
	out *tabwriter.Writer
}

// slowest is how long any answer may take, whatever is away.
const slowest = 12 * time.Second

// A row is the wanted statuses in one state.
type row struct{ healthz, readyz, seen, unseen, clone, write int }

// check asks for everything in one state and compares the statuses with want.
// In unseen is a tarball that nobody has asked for yet.
func (m *matrix) check(part, state, unseen string, want row) {
	m.t.Helper()
	var got row
	var took [6]time.Duration
	var asked sync.WaitGroup
	ask := func(i int, status *int, do func() (int, error)) {
		asked.Go(func() {
			began := time.Now()
			var err error
			*status, err = do()
			if took[i] = time.Since(began); err != nil || took[i] > harness.Slack(slowest) {
				m.t.Errorf("%s %s: question %d took %v: %v", part, state, i, took[i], err)
			}
		})
	}
	get := func(i int, status *int, method, path, body string) {
		ask(i, status, func() (int, error) {
			a, err := m.s.TryDo(method, path, body, nil)
			if err != nil {
				return 0, err
			}
			return a.Status, nil
		})
	}
	get(0, &got.healthz, http.MethodGet, "/healthz", "")
	get(1, &got.readyz, http.MethodGet, "/readyz", "")
	get(2, &got.seen, http.MethodGet, "/p/"+m.pkg+"/tag/v1.0.0.tar.gz", "")
	get(3, &got.unseen, http.MethodGet, "/p/"+m.pkg+"/tag/"+unseen+".tar.gz", "")
	ask(4, &got.clone, func() (int, error) {
		_, err := clone(m.t, m.s.URL, m.pkg)
		if err != nil && strings.Contains(err.Error(), "503") {
			return http.StatusServiceUnavailable, nil
		}
		return http.StatusOK, err
	})
	get(5, &got.write, http.MethodPost, "/api/fetch", `{"url":"`+m.url+`"}`)
	asked.Wait()
	if got != want {
		m.t.Errorf("%s %s: got %+v, want %+v", part, state, got, want)
	}
	fmt.Fprintf(m.out, "%s\t%s", part, state)
	for i, status := range []int{got.healthz, got.readyz, got.seen, got.unseen, got.clone, got.write} {
		fmt.Fprintf(m.out, "\t%d in %v", status, took[i].Round(10*time.Millisecond))
	}
	fmt.Fprintln(m.out)
}

// OP-03. What each part that is away, or frozen, does to health, reads and
// writes.
func TestHealthMatrix(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	out := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "part\tstate\t/healthz\t/readyz\tread, seen\tread, unseen\tclone\twrite")
	ok := row{200, 200, 200, 200, 200, 202}

	up := harness.NewUpstream(t)
	repo := up.Repo("hello")
	for i := range 8 {
		repo.Release(fmt.Sprintf("v1.%d.0", i))
	}
	root, freeze := freezable(t)
	// What is asked of Postgres may take 5 s longer than a statement.
	postgres, databaseURL := throughPostgres(t, storagetest.NewURL(t)+"&statement_timeout=3s")
	redis, redisURL := throughRedis(t, queuetest.NewURL(t))
	s := harness.Start(t, "PACKBASE_DATABASE_URL="+databaseURL, "PACKBASE_REDIS_URL="+redisURL, "PACKBASE_ROOT="+root)
	s.Fetch(repo.URL)
	m := &matrix{t: t, s: s, pkg: "hello", url: up.Repo("other").URL, out: out}
	up.Repo("other").Release("v1.0.0")
	m.check("all", "up", "v1.1.0", ok)

	for _, state := range []string{"down", "frozen"} {
		postgres.set(t, state)
		m.check("Postgres", state, "v1.2.0", row{200, 503, 200, 503, 200, 503})
		postgres.set(t, "up")
		s.AwaitAPI()
	}
	for i, state := range []string{"down", "frozen"} {
		redis.set(t, state)
		m.check("Redis", state, fmt.Sprintf("v1.%d.0", 3+i), ok)
		redis.set(t, "up")
		s.AwaitAPI()
	}
	s.Fetch(m.url) // all that was accepted is done
	blobs := filepath.Join(root, "blobs")
	move(t, blobs, blobs+".away")
	m.check("blobs folder", "down", "v1.5.0", row{200, 503, 503, 503, 503, 202})
	move(t, blobs+".away", blobs)
	s.AwaitAPI()
	if thaw := freeze(); thaw != nil {
		m.check("blobs disk", "frozen", "v1.6.0", ok)
		thaw()
	}
	s.Fetch(m.url)

	if atLength {
		s3Matrix(t, repo.URL, m.url, out)
	}
	out.Flush()
	t.Logf("\n%s", text.String())
}

// s3Matrix is the part of the matrix that is about a bucket.
func s3Matrix(t *testing.T, hello, other string, out *tabwriter.Writer) {
	t.Helper()
	bucket := blobtest.StartS3(t).NewBucket(t)
	bucket.URL += "&timeout=1s"
	s := harness.Start(t, awsEnv(bucket)...)
	s.Fetch(hello)
	m := &matrix{t: t, s: s, pkg: "hello", url: other, out: out}
	m.check("S3", "up", "v1.1.0", row{200, 200, 200, 200, 200, 202})
	bucket.Through(func(http.Handler) http.Handler { return harness.Close() })
	m.check("S3", "down", "v1.2.0", row{200, 503, 503, 503, 503, 202})
	quit := make(chan struct{})
	bucket.Through(func(http.Handler) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-quit:
			case <-r.Context().Done():
			}
		})
	})
	m.check("S3", "frozen", "v1.2.0", row{200, 503, 503, 503, 503, 202})
	close(quit)
	bucket.Through(nil)
	s.AwaitAPI()
	s.Fetch(m.url)

}

func move(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// freezable returns a folder, and what freezes the disk that it is on; that
// returns what thaws it, or nil where only root could do so.
func freezable(t *testing.T) (dir string, freeze func() (thaw func())) {
	t.Helper()
	dir = t.TempDir()
	image := filepath.Join(t.TempDir(), "image")
	never := func() func() { return nil }
	if os.Getuid() != 0 || os.WriteFile(image, nil, 0o600) != nil || os.Truncate(image, 64<<20) != nil {
		return dir, never
	}
	for _, command := range [][]string{{"mkfs.ext4", "-q", image}, {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Logf("no disk to freeze: %s: %v %s", command[0], err, out)
			return dir, never
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v %s", err, out)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir, func() func() {
		if out, err := exec.Command("fsfreeze", "--freeze", dir).CombinedOutput(); err != nil {
			t.Logf("not frozen: %v %s", err, out)
			return nil
		}
		thawed := false
		thaw := func() {
			if !thawed {
				thawed = true
				if out, err := exec.Command("fsfreeze", "--unfreeze", dir).CombinedOutput(); err != nil {
					t.Errorf("thaw: %v %s", err, out)
				}
			}
		}
		t.Cleanup(thaw) // or nothing that writes there could ever be ended
		return thaw
	}
}
