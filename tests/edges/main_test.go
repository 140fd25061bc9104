// Package edges tests packbase beyond one process: edges that follow a central,
// many workers, S3, backups, and what still works when a part is away.
//
// Tests are named after the test plan's ids.
package edges

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/francescobianco/packbase/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// long skips a test that takes too long for each change.
func long(t *testing.T) {
	t.Helper()
	if !atLength {
		t.Skip("make test-faults runs it")
	}
}

// A getter answers GET requests, as a *harness.Server does.
type getter interface {
	Get(path string) []byte
}

// replication is what /api/status says of an edge.
type replication struct {
	Central, Halted string
	Seq, Head       int64
	SyncedAt        string `json:"synced_at"`
	SetAside        int    `json:"set_aside"`
	SetAsideChanges []struct {
		Seq          int64
		Package, Tag string
		Reason       string
	} `json:"set_aside_changes"`
}

func status(t testing.TB, s getter) replication {
	t.Helper()
	var body struct{ Replication *replication }
	decode(t, s.Get("/api/status"), &body)
	if body.Replication == nil {
		t.Fatal("the status has no replication, want that of an edge")
	}
	return *body.Replication
}

func decode(t testing.TB, raw []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(raw, v); err != nil {
		t.Fatalf("%v\n%.2000s", err, raw)
	}
}

func sha(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// served returns a digest of all that s serves, by path: tarballs, manifests
// and what Git lists. It fails if a tarball is not what info says.
func served(t testing.TB, s getter) map[string]string {
	t.Helper()
	var list struct {
		Local []string `json:"local_packages"`
	}
	decode(t, s.Get("/api/list"), &list)
	all := map[string]string{}
	for _, pkg := range list.Local {
		var info harness.Info
		decode(t, s.Get("/api/info/"+pkg), &info)
		for _, r := range slices.Concat(info.Tarballs, info.Snapshots) {
			all[r.URL] = sha(s.Get(r.URL))
			if all[r.URL] != r.SHA256 {
				t.Errorf("%s has the digest %s, info says %s", r.URL, all[r.URL], r.SHA256)
			}
			for _, hash := range []string{r.Zig.Hash, r.Zig.LegacyHash} {
				if hash != "" {
					s.Get("/z/" + hash + ".tar.gz")
				}
			}
			all[pkg+"@"+r.Tag] = fmt.Sprint(r.Commit, r.Tree, r.TagObject, r.ContentDigest, r.MD5, r.CRC32, r.Zig)
		}
	}
	return all
}

// within fails unless all that part serves is in whole with the same bytes.
func within(t testing.TB, part, whole map[string]string) {
	t.Helper()
	for _, key := range slices.Sorted(maps.Keys(part)) {
		if part[key] != whole[key] {
			t.Errorf("I12: the edge has %s = %s, the central %q", key, part[key], whole[key])
		}
	}
}

// same fails unless both serve the same.
func same(t testing.TB, got, want map[string]string) {
	t.Helper()
	within(t, got, want)
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if _, ok := got[key]; !ok {
			t.Errorf("%s is missing", key)
		}
	}
}

// inStep waits until the edge has all that the central has.
func inStep(t testing.TB, edge *harness.Server, central *harness.Server) {
	t.Helper()
	var feed struct{ Head struct{ Seq int64 } }
	decode(t, central.Get("/api/changes"), &feed)
	harness.Eventually(t, fmt.Sprintf("the edge has %d changes", feed.Head.Seq), func() bool {
		return status(t, edge).Seq == feed.Head.Seq
	})
}

// clone clones a package with git and returns the ids of its refs.
func clone(t testing.TB, base, pkg string) (refs string, err error) {
	t.Helper()
	dir := t.TempDir()
	if _, err := harness.Git(t, dir, "", "clone", "--quiet", base+"/"+pkg, "out"); err != nil {
		return "", err
	}
	if _, err := harness.Git(t, dir+"/out", "", "fsck", "--strict", "--no-dangling"); err != nil {
		return "", err
	}
	return harness.Git(t, dir+"/out", "", "for-each-ref", "--format=%(refname) %(objectname)", "refs/tags")
}
