package proxy_test

import (
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/torchwood"

	"github.com/francescobianco/packbase/storage/engines"
	"github.com/francescobianco/packbase/storage/logbook"
	"github.com/francescobianco/packbase/tests/harness"
	"github.com/francescobianco/packbase/tests/harness/engine"
)

// The log is there while packbase and Postgres are not: nginx alone serves checkpoint, tiles and proofs, with the headers that
// the api gives them, and all of it holds. What has no file, the api answers.
func TestLogWithoutPackbase(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	repo := up.Repo("hello")
	repo.Release("v1.0.0")
	repo.Release("release/v1.1.0+a")
	eng := engine.New(t, engines.Options{NoRedis: true})
	s := harness.Start(t, append(eng.Env(), "PACKBASE_NAMES=localhost")...)
	s.Fetch(repo.URL)
	p := startNginx(t, s.URL, "/var/lib/packbase", s.Root)
	client := p.client(t, true)
	s.Log(3)
	hash := s.Info("hello").Release(t, "v1.0.0").Zig.LegacyHash
	proofs := map[string]string{ // and a line of the entry
		"/p/hello/tag/v1.0.0.tlog-proof":           "refs/tags/v1.0.0",
		"/p/hello/tag/release/v1.1.0+a.tlog-proof": "refs/tags/release/v1.1.0+a",
		"/z/" + hash + ".tlog-proof":               "refs/tags/v1.0.0",
	}
	for path := range proofs {
		harness.Eventually(t, path+" is a file", func() bool {
			found, err := filepath.Glob(filepath.Join(s.Root, "log/proof", path))
			return err == nil && len(found) == 1
		})
	}
	get := func(path string) ([]byte, http.Header) {
		t.Helper()
		resp, err := client.Get(p.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s, %v\n%s", path, resp.Status, err, body)
		}
		return body, resp.Header
	}
	commit := "/p/hello/commit/" + s.Info("hello").Release(t, "v1.0.0").Commit + ".tlog-proof" // has no file
	if body, _ := get(commit); !strings.Contains(string(body), "tlog-proof") {
		t.Errorf("%s is\n%s", commit, body)
	}
	paths := []string{"/log/checkpoint", "/log/policy", "/log/tile/0/000.p/3", "/log/tile/entries/000.p/3"}
	for path := range proofs {
		paths = append(paths, path)
	}
	api := map[string]*harness.Answer{}
	for _, path := range paths {
		api[path] = s.Do(http.MethodGet, path, "", nil)
	}
	s.Stop()
	eng.Stop()
	for _, path := range paths {
		body, header := get(path)
		if proofs[path] == "" && string(body) != string(api[path].Body) {
			t.Errorf("%s is\n%s\nthe api has\n%s", path, body, api[path].Body)
		}
		for _, name := range []string{"Content-Type", "Cache-Control"} {
			if got, want := header.Get(name), api[path].Header.Get(name); got != want {
				t.Errorf("%s: %s: %q, the api has %q", path, name, got, want)
			}
		}
	}

	policy, _ := get("/log/policy")
	signed, _ := get("/log/checkpoint")
	tree, err := logbook.OpenCheckpoint(signed, policy)
	if err != nil || tree.N != 3 {
		t.Fatalf("checkpoint: %v, %v", tree, err)
	}
	tiles, err := torchwood.NewTileFetcher(p.URL+"/log", torchwood.WithHTTPClient(client))
	if err != nil {
		t.Fatal(err)
	}
	log, err := torchwood.NewClient(tiles)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for range log.AllEntries(t.Context(), tree, 0) {
		n++
	}
	if err := log.Err(); err != nil || n != 3 {
		t.Errorf("%d entries, %v", n, err)
	}
	for path, ref := range proofs {
		proof, _ := get(path)
		if e, _, err := logbook.OpenProof(proof, policy); err != nil || e.Value("ref") != ref {
			t.Errorf("%s: %v, %v", path, e, err)
		}
	}
}
