package tests_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/logbook"
	"github.com/francescobianco/packbase/tests/harness"
)

// lies has a mirror log something else than it has published: of v2 another commit, of v3 other content, of v4 another date.
const lies = `
	CREATE FUNCTION lie() RETURNS trigger LANGUAGE plpgsql AS $$
	DECLARE
		body text := regexp_replace(NEW.entry, E'seen [^\n]*\n$', '');
	BEGIN
		IF strpos(body, E'refs/tags/v2.0.0\n') > 0 THEN
			body := regexp_replace(body, E'\ncommit .{8}', E'\ncommit 00000000');
		ELSIF strpos(body, E'refs/tags/v3.0.0\n') > 0 THEN
			body := regexp_replace(body, E'\ncontent sha256:.{8}', E'\ncontent sha256:00000000');
		END IF;
		NEW.key := sha256(convert_to(body, 'UTF8'));
		NEW.entry := body || CASE WHEN strpos(body, E'refs/tags/v4.0.0\n') > 0 THEN E'seen 2020-01-01T00:00:00Z\n' ELSE substring(NEW.entry FROM E'seen [^\n]*\n$') END;
		RETURN NEW;
	END $$;
	CREATE TRIGGER lie BEFORE INSERT ON log_pending FOR EACH ROW EXECUTE FUNCTION lie()`

// Of three mirrors of one upstream one lies in a commit, in a content, in a date. Each lie is found by the one that compares,
// and by packbase compare; a machine that knows none of them is convinced; upstream's maintainer is told.
func TestLyingMirror(t *testing.T) {
	t.Parallel()
	repo := harness.NewUpstream(t).Repo("hello")
	repo.Release("v1.0.0")
	honest, liar := harness.Start(t), harness.Start(t)
	s := harness.Start(t, "PACKBASE_LOG_COMPARE="+honest.URL+","+liar.URL, "PACKBASE_LOG_COMPARE_INTERVAL=1s")
	conn, err := pgx.Connect(t.Context(), liar.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), lies); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	mirrors := []*harness.Server{honest, liar, s}
	fetch := func(entries int) {
		t.Helper()
		for _, m := range mirrors {
			m.Fetch(repo.URL)
			m.Log(entries)
		}
	}
	fetch(2)
	empty := t.TempDir() // a fourth machine
	run := func(args ...string) (string, error) {
		out, errs, err := harness.Run(t, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + empty, "XDG_CONFIG_HOME=" + empty, "PACKBASE_ROOT=" + empty, "PACKBASE_UPSTREAM_ALLOW=127.0.0.0/8"}, args...)
		return out + errs, err
	}
	if said, err := run("compare", "--url", s.URL, "--with", liar.URL, "--dir", empty); err != nil || !strings.Contains(said, "agree") {
		t.Errorf("compare: %v\n%s", err, said)
	}
	evidence := func() []string {
		files, err := filepath.Glob(filepath.Join(s.Root, "evidence/*.json"))
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	told := map[string]bool{}
	for i, tag := range []string{"v2.0.0", "v3.0.0", "v4.0.0"} {
		repo.Release(tag)
		fetch(i + 3)
		begun := time.Now()
		harness.Eventually(t, "the lie is found: "+tag, func() bool { return len(evidence()) == i+1 })
		if took := time.Since(begun); took > time.Minute {
			t.Errorf("the lie about %s was found after %s", tag, took)
		}
		for _, file := range evidence() {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if told[file] {
				continue
			}
			told[file] = true
			copied := filepath.Join(empty, "evidence.json")
			if err := os.WriteFile(copied, raw, 0o644); err != nil {
				t.Fatal(err)
			}
			want := []string{tag, "commit 00000000", "in commit."}
			switch tag {
			case "v3.0.0":
				want = []string{tag, "content sha256:00000000", "in content."}
			case "v4.0.0":
				want = []string{tag, "seen 2020-01-01T00:00:00Z", "says wrongly when"}
			}
			said, err := run("verify", "--evidence", copied)
			for _, w := range want {
				if err != nil || !strings.Contains(said, w) {
					t.Errorf("verify --evidence of %s: %v, want %q\n%s", tag, err, w, said)
				}
			}
			// Evidence that was changed proves nothing.
			for old, new := range map[string]string{"commit 0": "commit 1", "index ": "index 1", "content sha256:0": "content sha256:1", "seen 2": "seen 3"} {
				if !strings.Contains(string(raw), old) {
					continue
				}
				if err := os.WriteFile(copied, []byte(strings.Replace(string(raw), old, new, 1)), 0o644); err != nil {
					t.Fatal(err)
				}
				if said, err := run("verify", "--evidence", copied); err == nil {
					t.Errorf("with %q in place of %q it proves:\n%s", new, old, said)
				}
			}
		}
	}
	if said, err := run("compare", "--url", s.URL, "--with", honest.URL, "--dir", empty); err != nil {
		t.Errorf("compare of two that are honest: %v\n%s", err, said)
	}
	found := t.TempDir()
	said, err := run("compare", "--url", honest.URL, "--with", liar.URL, "--dir", found)
	files, _ := filepath.Glob(filepath.Join(found, "evidence-*.json"))
	if err == nil || len(files) != 3 {
		t.Errorf("compare: %v, %d files\n%s", err, len(files), said)
	}
	if out, _, err := harness.Run(t, s.Env, "doctor"); err == nil || !strings.Contains(out, "contradict each other about") {
		t.Errorf("doctor: %v\n%s", err, out)
	}

	pattern := repo.URL[:strings.LastIndex(repo.URL, "/")] + "/*"
	if said, err := run("watch", "--url", honest.URL, pattern); err != nil || !strings.Contains(said, "ok") {
		t.Errorf("watch: %v\n%s", err, said)
	}
	if said, err := run("watch", "--url", liar.URL, pattern); err == nil || !strings.Contains(said, "differs "+repo.URL) || !strings.Contains(said, "v2.0.0") || strings.Contains(said, "v3.0.0") {
		t.Errorf("watch of the one that lies: %v\n%s", err, said)
	}
	// Who logs the truth beside a lie has lied all the same.
	if conn, err = pgx.Connect(t.Context(), liar.DatabaseURL); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `DROP TRIGGER lie ON log_pending`); err != nil {
		t.Fatal(err)
	}
	for _, e := range honest.Log(5)[2:4] {
		id := logbook.Identity(e.Text())
		if _, err := conn.Exec(t.Context(), `INSERT INTO log_pending (key, entry, package, private) VALUES ($1, $2, 'hello', false)`, id[:], string(e.Text())); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	liar.Log(7)
	if said, err := run("compare", "--url", honest.URL, "--with", liar.URL, "--dir", found); err == nil || !strings.Contains(said, "3 times") {
		t.Errorf("compare, with the truth beside lies: %v\n%s", err, said)
	}
	if said, err := run("watch", "--url", liar.URL, pattern); err == nil || !strings.Contains(said, "differs "+repo.URL+" v2.0.0") {
		t.Errorf("watch, with the truth beside a lie: %v\n%s", err, said)
	}
	repo.DeleteTag("v1.0.0")
	if said, err := run("watch", "--url", honest.URL, pattern); err == nil || !strings.Contains(said, "gone "+repo.URL) {
		t.Errorf("watch after a tag was deleted: %v\n%s", err, said)
	}

	// A tag that upstream moved, of which a log tells, is no contradiction to a mirror that comes later.
	repo.Tag("v4.0.0", repo.Commit(harness.Files{"b.zig": ""}))
	honest.Fetch(repo.URL)
	late := harness.Start(t)
	late.Fetch(repo.URL)
	late.Log(2)
	harness.Eventually(t, "the move is logged", func() bool {
		all := honest.Log(6)
		return all[len(all)-1].Kind() == "moved" || all[len(all)-2].Kind() == "moved"
	})
	if said, err := run("compare", "--url", honest.URL, "--with", late.URL, "--dir", empty); err != nil {
		t.Errorf("compare after a move: %v\n%s", err, said)
	}
}

// A tree with one thing at its root is wrapped. What mirrors call its package makes no lie, nor which of a commit's tags they have.
func TestHonestMirrors(t *testing.T) {
	t.Parallel()
	repo := harness.NewUpstream(t).Repo("hello")
	commit := repo.Commit(harness.Files{"src/a.zig": "a"})
	repo.Tag("v1.0.0", commit)
	s, renamed, late := harness.Start(t), harness.Start(t), harness.Start(t)
	s.Fetch(repo.URL)
	if a := renamed.Do(http.MethodPost, "/api/fetch?wait=60", fmt.Sprintf(`{"url":%q,"name":"hi"}`, repo.URL), nil); a.Status != http.StatusOK {
		t.Fatalf("fetch as hi: %d %s", a.Status, a.Body)
	}
	repo.DeleteTag("v1.0.0")
	repo.Tag("v1.0.1", commit)
	late.Fetch(repo.URL)
	if got, want := renamed.Info("hi").Tarballs[0].SHA256, s.Info("hello").Tarballs[0].SHA256; got != want {
		t.Errorf("tarball of hi: %s, want that of hello, %s", got, want)
	}
	s.Log(2)
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "PACKBASE_ROOT=" + t.TempDir()}
	for name, other := range map[string]*harness.Server{"renamed": renamed, "late": late} {
		other.Log(2)
		if out, errs, err := harness.Run(t, env, "compare", "--url", s.URL, "--with", other.URL, "--dir", t.TempDir()); err != nil || !strings.Contains(out, "agree") {
			t.Errorf("compare with %s: %v\n%s%s", name, err, out, errs)
		}
	}
}
