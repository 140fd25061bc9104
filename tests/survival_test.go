package tests_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/tests/harness"
	"github.com/francescobianco/packbase/tests/harness/archives"
)

// What upstream has lost of a tree is told where people look: by the command, for all trees and the one, on the pages, in
// the API and in the metric that the alert goes by. A tree that upstream still has is said to be there.
func TestSurvivalReport(t *testing.T) {
	t.Parallel()
	var lost atomic.Bool
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if lost.Load() && strings.Contains(r.URL.Path, "lost") {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/gzip")
		w.Write(archives.TarGz(t, harness.Files{"a.txt": r.URL.Path}))
	}))
	defer web.Close()
	admin := fmt.Sprintf("127.0.0.1:%d", harness.FreePort(t))
	s := harness.Start(t, "PACKBASE_CHECK_TREES=2s", "PACKBASE_PULL="+strings.TrimPrefix(web.URL, "http://"))
	s.AddAPI("metrics", "PACKBASE_ADMIN_ADDR="+admin)
	run := func(args ...string) string {
		t.Helper()
		stdout, stderr, err := harness.Run(t, append(slices.Clone(s.Env), "PACKBASE_URL="+s.URL), args...)
		if err != nil {
			t.Fatalf("%v\n%s%s", err, stdout, stderr)
		}
		return stdout
	}
	for name, files := range map[string][]string{"safe": {"here"}, "rescued": {"here", "lost-1", "lost-2"}} {
		var deps strings.Builder
		for i, file := range files {
			at := web.URL + "/" + file + ".tar.gz"
			fmt.Fprintf(&deps, ".d%d = .{ .url = %q, .hash = %q },", i, at, hashOf(t, s, at))
		}
		dir := t.TempDir()
		manifest := ".{ .name = \"app\", .version = \"1.0.0\", .paths = .{\"\"}, .dependencies = .{" + deps.String() + "} }"
		if err := os.WriteFile(filepath.Join(dir, "build.zig.zon"), []byte(manifest), 0o600); err != nil {
			t.Fatal(err)
		}
		run("capture", "--wait", "--name", name, dir)
	}
	says := func(want ...string) func() bool {
		return func() bool {
			got := run("tree", "--survival")
			return !slices.ContainsFunc(want, func(line string) bool { return !strings.Contains(got, line) })
		}
	}
	harness.Eventually(t, "upstream has all of both", says("rescued  upstream has all of it\n", "safe  upstream has all of it\n"))
	lost.Store(true)
	const gone = "rescued  would not build without packbase: upstream lost 2 of 3 packages\n"
	harness.Eventually(t, "one tree has lost something", says(gone, "safe  upstream has all of it\n"))
	if got := run("tree", "rescued", "--survival"); got != gone {
		t.Errorf("of the one tree: %q", got)
	}
	var page wire.Trees
	if err := json.Unmarshal([]byte(run("tree", "--survival", "--json")), &page); err != nil || len(page.Trees) != 2 {
		t.Errorf("as JSON: %+v, %v", page, err)
	}
	for _, tr := range page.Trees {
		if tr.Lost != map[string]int{"rescued": 2, "safe": 0}[tr.Name] {
			t.Errorf("%s has lost %d", tr.Name, tr.Lost)
		}
	}
	for path, want := range map[string]string{"/trees/rescued": "would not build today", "/trees/safe": "still has all of it", "/trees": "needs packbase"} {
		if got := s.Do("GET", path, "", http.Header{"Accept": {"text/html"}}).Body; !strings.Contains(string(got), want) {
			t.Errorf("%s does not say %q", path, want)
		}
	}
	alerts, err := os.ReadFile("../deploy/alerts.yml")
	if err != nil || !strings.Contains(string(alerts), "alert: PackbaseTreesLost\n        expr: max(packbase_trees_lost) > 0\n") {
		t.Errorf("no alert looks at the metric: %v", err)
	}
	harness.Eventually(t, "the metric says one", func() bool {
		resp, err := http.Get("http://" + admin + "/metrics")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		return err == nil && strings.Contains(string(raw), "\npackbase_trees_lost 1\n")
	})
}
