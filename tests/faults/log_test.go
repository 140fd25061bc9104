package faults

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/torchwood"
	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/francescobianco/packbase/storage/engines"
	"github.com/francescobianco/packbase/storage/ledger/ledgertest"
	"github.com/francescobianco/packbase/storage/logbook"
	"github.com/francescobianco/packbase/tests/harness"
	"github.com/francescobianco/packbase/tests/harness/engine"
)

// A follower is a reader of a log that remembers what it was shown.
type follower struct {
	t     *testing.T
	s     *harness.Server
	tree  tlog.Tree
	proof int // how often a larger tree was proved to have the smaller one
}

// look reads the checkpoint, if it can be had now, and demands that it goes on from the largest that was seen.
func (f *follower) look() {
	f.t.Helper()
	signed, err := f.s.TryDo(http.MethodGet, "/log/checkpoint", "", nil)
	if err != nil || signed.Status != http.StatusOK {
		return
	}
	policy, err := f.s.TryDo(http.MethodGet, "/log/policy", "", nil)
	if err != nil || policy.Status != http.StatusOK {
		return
	}
	logs, _, _ := strings.Cut(string(policy.Body), "witness ") // a checkpoint may be shown before the witness answered
	tree, err := logbook.OpenCheckpoint(signed.Body, []byte(logs+"quorum none\n"))
	if err != nil {
		f.t.Fatal(err)
	}
	if tree.N < f.tree.N {
		f.t.Fatalf("the log shows %d entries, and showed %d", tree.N, f.tree.N)
	}
	if f.tree.N > 0 && tree.N > f.tree.N {
		tiles, err := torchwood.NewTileFS(os.DirFS(filepath.Join(f.s.Root, "log")))
		if err != nil {
			f.t.Fatal(err)
		}
		proof, err := tlog.ProveTree(tree.N, f.tree.N, torchwood.TileHashReaderWithContext(f.t.Context(), tree, tiles))
		if err != nil {
			f.t.Fatalf("from %d to %d: %v", f.tree.N, tree.N, err)
		}
		if err := tlog.CheckTree(proof, tree.N, tree.Hash, f.tree.N, f.tree.Hash); err != nil {
			f.t.Fatalf("the log was forked between %d and %d entries: %v", f.tree.N, tree.N, err)
		}
		f.proof++
	}
	if tree.N == f.tree.N && f.tree.N > 0 && tree != f.tree {
		f.t.Fatalf("two trees of %d entries are signed", tree.N)
	}
	f.tree = tree
}

// copyDatabase replaces a database by a copy of another, whoever uses them.
func copyDatabase(t *testing.T, from, to string) {
	t.Helper()
	u, err := url.Parse(from)
	if err != nil {
		t.Fatal(err)
	}
	name := strings.TrimPrefix(u.Path, "/")
	u.Path = "/template1"
	conn, err := pgx.Connect(t.Context(), u.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	for _, sql := range []string{
		`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname IN ('` + name + `', '` + to + `') AND pid <> pg_backend_pid()`,
		`DROP DATABASE IF EXISTS ` + pgx.Identifier{to}.Sanitize() + ` WITH (FORCE)`,
		`CREATE DATABASE ` + pgx.Identifier{to}.Sanitize() + ` TEMPLATE ` + pgx.Identifier{name}.Sanitize(),
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// A registry whose workers are killed at any time, and whose database is now and then that of an earlier time, has one log: it
// only grows, no entry is twice or missing, and two programs that are not ours agree: a checker finds nothing wrong, and a
// witness that saw it grow cosigns it. 4 kills and 2 restores of 120 releases, or 200 and 50 of 10,000.
func TestLogCampaign(t *testing.T) {
	t.Parallel()
	r := random(t)
	eng := engine.New(t, engines.Options{NoRedis: true})
	const name = "mirror.example/log"
	witness := ledgertest.NewWitness(t, "witness.example/w")
	dir := t.TempDir()
	env := append(eng.Env(), "PACKBASE_JOB_ATTEMPTS=100", "PACKBASE_MAX_JOBS=100000",
		"PACKBASE_LOG_NAME="+name, "PACKBASE_LOG_KEY_FILE="+filepath.Join(dir, "log.key"), "PACKBASE_LOG_WITNESSES="+filepath.Join(dir, "witnesses"))
	if err := os.WriteFile(filepath.Join(dir, "witnesses"), []byte(witness.Line()+"quorum "+witness.Name+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	key, errs, err := harness.Run(t, env, "log", "key", "--new")
	if err != nil {
		t.Fatalf("log key --new: %v\n%s", err, errs)
	}
	key = strings.TrimSpace(key)
	witness.Know(name, key)
	s := harness.Start(t, env...)
	up := harness.NewUpstream(t)
	kills, restores, repos, tags := rounds(4, 200), rounds(2, 50), rounds(6, 100), rounds(20, 100)
	f := &follower{t: t, s: s}
	u, err := url.Parse(s.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	live := strings.TrimPrefix(u.Path, "/")
	old := *u
	old.Path = "/earlier"
	saved, adding := false, 0
	var all []*harness.Repo
	for round := range kills {
		before := len(all)
		for len(all) < repos*(round+1)/kills {
			repo := up.Repo(fmt.Sprintf("log%d", len(all)))
			oid := repo.Commit(harness.Files{"a.zig": repo.URL})
			for i := range tags {
				repo.Tag(fmt.Sprintf("v1.0.%d", i), oid)
			}
			all = append(all, repo)
		}
		for _, repo := range all[max(0, len(all)-3):] {
			s.Ask(repo.URL)
		}
		if len(all) > before {
			adding++
		}
		if was := f.tree.N; len(all) > before && adding%2 == 1 {
			harness.Eventually(t, "the log grows", func() bool { f.look(); return f.tree.N > was })
		}
		for range 1 + r.IntN(10) {
			time.Sleep(time.Duration(r.IntN(100)) * time.Millisecond)
			f.look()
		}
		s.Worker.Kill9()
		f.look()
		switch {
		case saved && round*restores/kills != (round-1)*restores/kills || round == kills-1:
			s.API.Kill9()
			copyDatabase(t, old.String(), live)
			s.API.Start()
		case !saved || r.IntN(3) == 0:
			s.API.Kill9()
			copyDatabase(t, s.DatabaseURL, "earlier")
			saved = true
			s.API.Start()
		}
		s.Worker.Start()
		s.AwaitReady()
	}
	for _, repo := range all {
		s.Fetch(repo.URL)
	}
	harness.Eventually(t, "the witness cosigned the whole log", func() bool {
		tree, err := logbook.OpenCheckpoint(s.Get("/log/checkpoint"), s.Get("/log/policy")) // which demands the witness
		return err == nil && tree.N >= int64(repos*(tags+1))
	})
	entries := s.Log(repos * (tags + 1))
	f.look()
	seen := map[[32]byte]bool{}
	for _, e := range entries {
		seen[logbook.Identity(e.Text())] = true
	}
	if len(entries) != repos*(tags+1) || len(seen) != len(entries) {
		t.Errorf("the log has %d entries, %d of them different; want a claim and %d releases of each of %d packages", len(entries), len(seen), tags, repos)
	}
	if f.proof == 0 {
		t.Error("the log was never seen to grow")
	}
	if out, errs, err := harness.Run(t, s.Env, "fsck"); err != nil {
		t.Errorf("fsck: %v\n%s%s", err, out, errs)
	}
	ledgertest.Fsck(t, s.URL+"/log", key)
}
