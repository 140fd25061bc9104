package tests_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/storage/ledger"
	"github.com/francescobianco/packbase/storage/ledger/ledgertest"
	"github.com/francescobianco/packbase/storage/logbook"
	"github.com/francescobianco/packbase/tests/harness"
)

// Edges have the central's log, and cosign it with keys of their own once all that it tells of is here, and not before.
func TestEdgesCosign(t *testing.T) {
	t.Parallel()
	s := harness.Start(t)
	repo := harness.NewUpstream(t).Repo("hello")
	repo.Release("v1.0.0")
	s.Fetch(repo.URL)
	s.Log(2)
	public := logbook.PolicyKey(s.Get("/log/policy"))
	edges := []*harness.Server{harness.StartEdge(t, s.URL), harness.StartEdge(t, s.URL)}
	// cosigned reports whether an edge shows so many entries under a policy that wants its cosignature.
	cosigned := func(edge *harness.Server, size int64) bool {
		key, err := ledger.ReadKey(filepath.Join(edge.Root, "mirror.key"))
		if err != nil {
			return false
		}
		vkey, err := key.Cosigner()
		if err != nil {
			t.Fatal(err)
		}
		answer := edge.Do(http.MethodGet, "/log/checkpoint", "", nil)
		tree, err := logbook.OpenCheckpoint(answer.Body, []byte("log "+public+"\nwitness edge "+vkey+"\nquorum edge\n"))
		return err == nil && tree.N == size
	}
	for _, edge := range edges {
		harness.Eventually(t, "an edge cosigns", func() bool { return cosigned(edge, 2) })
		if all := edge.Log(2); all[1].Value("ref") != "refs/tags/v1.0.0" {
			t.Errorf("the edge has\n%s", all[1].Text())
		}
		ledgertest.Fsck(t, edge.URL+"/log/", public)
	}
	vkey, errs, err := harness.Run(t, edges[0].Env, "log", "key")
	if _, bad := logbook.ParseWitnesses([]byte("witness edge " + strings.TrimSpace(vkey) + " https://edge.example\nquorum edge\n")); err != nil || bad != nil {
		t.Errorf("log key of an edge: %v, %v\n%s%s", err, bad, vkey, errs)
	}
	if a, b := edges[0].Get("/log/checkpoint"), edges[1].Get("/log/checkpoint"); string(a) == string(b) {
		t.Error("two edges have one key")
	}

	// What cannot be had is not cosigned: the tarball of v2 is away.
	one := edges[0]
	one.Worker.Stop()
	repo.Release("v2.0.0")
	s.Fetch(repo.URL)
	s.Log(3)
	digest := s.Info("hello").Release(t, "v2.0.0").SHA256
	var away string
	err = filepath.WalkDir(s.Root, func(path string, d os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, digest[2:]) || err == nil && d.Name() == digest {
			away = path
		}
		return err
	})
	if err != nil || away == "" {
		t.Fatalf("no blob %s: %v", digest, err)
	}
	harness.Eventually(t, "the other edge cosigns", func() bool { return cosigned(edges[1], 3) })
	if err := os.Rename(away, away+".away"); err != nil {
		t.Fatal(err)
	}
	one.Worker.Start()
	harness.Eventually(t, "the edge says what is missing", func() bool { return one.Worker.Said("it is not here yet") })
	if !cosigned(one, 2) {
		t.Errorf("the edge cosigned what it has not:\n%s", one.Get("/log/checkpoint"))
	}
	if err := os.Rename(away+".away", away); err != nil {
		t.Fatal(err)
	}
	one.Worker.Stop()
	one.Worker.Start()
	harness.Eventually(t, "the edge cosigns what is here now", func() bool { return cosigned(one, 3) })

	// The log of an edge proves what it has, and passes its checks.
	hash := s.Info("hello").Release(t, "v2.0.0").Zig.Hash
	if e, _, err := logbook.OpenProof(one.Get("/z/"+hash+".tlog-proof"), logbook.Policy(public)); err != nil || e.Value("ref") != "refs/tags/v2.0.0" {
		t.Errorf("proof of an edge: %v\n%s", err, e.Text())
	}
	if out, errs, err := harness.Run(t, one.Env, "fsck"); err != nil {
		t.Errorf("fsck: %v\n%s%s", err, out, errs)
	}
}
