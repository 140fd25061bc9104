package tests_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/francescobianco/packbase/storage/ledger/ledgertest"
	"github.com/francescobianco/packbase/storage/logbook"
	"github.com/francescobianco/packbase/tests/harness"
)

// All that is published is in the log, as a stranger reads it with other people's tools, and stays there: through kills, with
// another worker, and without its key.
func TestLog(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, "PACKBASE_NAMES=127.0.0.1,mirror.example", "PACKBASE_LOG_NAME=mirror.example/log")
	up := harness.NewUpstream(t)
	repo := up.Repo("hello")
	first := repo.Release("v1.0.0")
	repo.Release("v1.1.0")
	s.Fetch(repo.URL)
	info := s.Info("hello")
	entries := s.Log(3)
	if len(entries) != 3 || entries[0].Kind() != "claim" || entries[0].Value("name") != "hello" {
		t.Fatalf("the log has %d entries, the first is %v", len(entries), entries[0])
	}
	rel := info.Release(t, "v1.0.0")
	want := fmt.Sprintf("packbase/1 release\nupstream %s\nref refs/tags/v1.0.0\ncommit %s\ntree %s\ncontent sha256:%s\ntarball sha256:%s %d\n",
		info.Upstream, rel.Commit, rel.Tree, rel.ContentDigest, rel.SHA256, rel.Size)
	if got := string(entries[1].Text()); rel.Commit != first || !strings.HasPrefix(got, want) {
		t.Errorf("the entry is\n%s\nwant\n%s", got, want)
	}
	if !bytes.HasPrefix(s.Get("/log/checkpoint"), []byte("mirror.example/log\n3\n")) {
		t.Errorf("the checkpoint is\n%s", s.Get("/log/checkpoint"))
	}

	// What becomes of it is logged, too.
	repo.Tag("v1.0.0", repo.Commit(harness.Files{"b.zig": ""}))
	s.Fetch(repo.URL)
	if e := s.Log(4)[3]; e.Kind() != "moved" || e.Value("old") != rel.Commit {
		t.Errorf("after a tag was moved:\n%s", e.Text())
	}
	s.Do(http.MethodPost, "/api/remove", `{"package":"hello","tag":"v1.0.0","reason":"it held a key"}`, nil)
	if e := s.Log(5)[4]; e.Kind() != "withdrawn" || strings.Contains(string(e.Text()), "held") {
		t.Errorf("after a removal:\n%s", e.Text())
	}

	for i := range 3 { // nothing of it is lost, whenever the worker dies
		repo.Release(fmt.Sprintf("v2.0.%d", i))
		s.Fetch(repo.URL)
		s.Worker.Kill9()
		s.Worker.Start()
	}
	if all := s.Log(8); len(all) != 8 || all[7].Value("ref") != "refs/tags/v2.0.2" {
		t.Errorf("the log has %d entries, the last is\n%s", len(all), all[len(all)-1].Text())
	}
	out, errs, err := harness.Run(t, s.Env, "log", "key")
	if err != nil || "log "+out+"quorum none\n" != string(s.Get("/log/policy")) {
		t.Errorf("log key: %v\n%s%s", err, out, errs)
	}
	if out, errs, err := harness.Run(t, s.Env, "fsck"); err != nil {
		t.Errorf("fsck: %v\n%s%s", err, out, errs)
	}

	// Without its key the log stands still; everything else goes on, and it catches up.
	key := filepath.Join(s.Root, "log.key")
	if err := os.Rename(key, key+".away"); err != nil {
		t.Fatal(err)
	}
	s.Worker.Stop()
	s.Worker.Start()
	repo.Release("v3.0.0")
	s.Fetch(repo.URL)
	harness.Eventually(t, "the worker says that it has no key", func() bool { return s.Worker.Said("the log stands still") })
	if out, _, err := harness.Run(t, s.Env, "doctor"); err == nil || !strings.Contains(out, "bring that file back") {
		t.Errorf("doctor says nothing of the key: %v\n%s", err, out)
	}
	if n := len(s.Log(1)); n != 8 {
		t.Errorf("the log has %d entries, want the 8 that it had", n)
	}
	if err := os.Rename(key+".away", key); err != nil {
		t.Fatal(err)
	}
	if all := s.Log(9); all[8].Value("ref") != "refs/tags/v3.0.0" {
		t.Errorf("the last entry is\n%s", all[8].Text())
	}
}

// packbase warm --require-proof takes what is proved to be in the log that is trusted, and nothing else.
func TestRequireProof(t *testing.T) {
	t.Parallel()
	s := harness.Start(t)
	up := harness.NewUpstream(t)
	fingerprint := func(name string) string { return fmt.Sprintf("0x%08x12345678", crc32.ChecksumIEEE([]byte(name))) }
	var deps string
	fetch := func(name string) {
		repo := up.Repo(name)
		commit := repo.Commit(harness.Files{"src/root.zig": "// " + name + "\n", "build.zig": "pub fn build(_: *@import(\"std\").Build) void {}\n",
			"build.zig.zon": fmt.Sprintf(".{ .name = .%s, .version = \"1.0.0\", .fingerprint = %s, .paths = .{\"\"} }\n", name, fingerprint(name))})
		repo.Tag("v1.0.0", commit)
		s.Fetch(repo.URL)
		deps += fmt.Sprintf(".%s = .{ .url = \"git+%s#%s\", .hash = \"%s\" }, ", name, repo.URL, commit, s.Info(name).Release(t, "v1.0.0").Zig.Hash)
	}
	project, home := t.TempDir(), t.TempDir()
	env := append(s.Env, "PACKBASE_URL="+s.URL, "XDG_CONFIG_HOME="+home, "PATH=/nonexistent")
	warm := func() (string, error) {
		text := ".{ .name = .app, .version = \"0.0.0\", .fingerprint = " + fingerprint("app") + ", .paths = .{\"\"}, .dependencies = .{ " + deps + "} }\n"
		if err := os.WriteFile(filepath.Join(project, "build.zig.zon"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		out, errs, err := harness.Run(t, env, "warm", "--require-proof", "--cache-dir", t.TempDir(), project)
		return out + errs, err
	}
	refused := func(why string) {
		t.Helper()
		if said, err := warm(); err == nil || !strings.Contains(said, why) {
			t.Errorf("warm: %v, %q; want that %q", err, said, why)
		}
	}
	trust := func() {
		t.Helper()
		if out, errs, err := harness.Run(t, env, "trust"); err != nil || !strings.Contains(out, "ok") {
			t.Fatalf("trust: %v\n%s%s", err, out, errs)
		}
	}
	fetch("one")
	s.Log(2)
	refused("packbase trust does so")
	trust()
	if said, err := warm(); err != nil || !strings.Contains(said, "1 package") {
		t.Errorf("warm: %v, %q", err, said)
	}
	fetch("two")
	s.Log(4)
	if said, err := warm(); err != nil || !strings.Contains(said, "2 packages") {
		t.Errorf("warm: %v, %q", err, said)
	}

	// The log shows less than it did.
	found, err := filepath.Glob(filepath.Join(home, "packbase/trust/*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("trusted: %v, %v", found, err)
	}
	saved, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	older := s.Get("/log/checkpoint")
	fetch("three")
	s.Log(6)
	trust()
	newest := filepath.Join(s.Root, "log/checkpoint")
	shown, err := os.ReadFile(newest)
	if err != nil {
		t.Fatal(err)
	}
	s.Worker.Stop() // which would put it right
	put := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put(newest, older)
	refused("was set back")
	put(newest, shown)

	// Another key signs, or what was seen was of another log.
	put(found[0], bytes.Replace(saved, []byte("log packbase"), []byte("log backbase"), 1))
	refused("what is trusted")
	other, err := logbook.NewSigner("127.0.0.1/log")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(map[string]string{"policy": string(logbook.Policy(other.Public))})
	if err != nil {
		t.Fatal(err)
	}
	put(found[0], raw)
	refused("not signed by the key that is trusted")
	refused("or not yet): ask its operator why, then packbase trust --replace")
	if out, errs, err := harness.Run(t, env, "trust"); err == nil {
		t.Errorf("another key is trusted without a word: %s%s", out, errs)
	}
	if out, errs, err := harness.Run(t, env, "trust", "--replace"); err != nil {
		t.Errorf("trust --replace: %v\n%s%s", err, out, errs)
	}
	if said, err := warm(); err != nil {
		t.Errorf("warm: %v, %q", err, said)
	}

	// What is not logged is not taken, and nothing else of the project, either.
	if err := os.Rename(filepath.Join(s.Root, "log.key"), filepath.Join(s.Root, "log.key.away")); err != nil {
		t.Fatal(err)
	}
	s.Worker.Start()
	s.AwaitReady()
	fetch("four")
	refused("no proof")
}

// A server that has the log's key, and lies, is found out: by the proof of another package, by two trees of one size, by one
// that does not go on from what was seen, and by none at all.
func TestLyingLog(t *testing.T) {
	t.Parallel()
	s := harness.Start(t)
	up := harness.NewUpstream(t)
	var hashes []string
	var dep string
	for _, name := range []string{"one", "two"} {
		repo := up.Repo(name)
		commit := repo.Commit(harness.Files{"src/root.zig": "// " + name + "\n"})
		repo.Tag("v1.0.0", commit)
		s.Fetch(repo.URL)
		hash := s.Info(name).Release(t, "v1.0.0").Zig.Hash
		hashes = append(hashes, hash)
		dep = fmt.Sprintf(".%s = .{ .url = \"git+%s#%s\", .hash = \"%s\" }", name, repo.URL, commit, hash)
	}
	s.Log(4)
	secret, err := os.ReadFile(filepath.Join(s.Root, "log.key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := logbook.ParseSigner(string(secret))
	if err != nil {
		t.Fatal(err)
	}
	checkpoint := func(size int64) []byte {
		signed, err := key.Sign(tlog.Tree{N: size, Hash: tlog.RecordHash([]byte("a lie"))})
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}

	var lies sync.Map // from paths to what is answered there
	target, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	liar := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if lie, ok := lies.Load(r.URL.Path); ok {
			_, _ = w.Write(lie.([]byte))
			return
		}
		r.Host = target.Host
		proxy.ServeHTTP(w, r)
	}))
	defer liar.Close()
	env := append(s.Env, "PACKBASE_URL="+liar.URL, "XDG_CONFIG_HOME="+t.TempDir(), "PATH=/nonexistent")
	if out, errs, err := harness.Run(t, env, "trust"); err != nil {
		t.Fatalf("trust: %v\n%s%s", err, out, errs)
	}
	project := t.TempDir()
	manifest := fmt.Sprintf(".{ .name = .app, .version = \"0.0.0\", .fingerprint = 0x%08x12345678, .paths = .{\"\"}, .dependencies = .{ %s } }\n", crc32.ChecksumIEEE([]byte("app")), dep)
	if err := os.WriteFile(filepath.Join(project, "build.zig.zon"), []byte(manifest), 0o644); err != nil {
		t.Fatal(err)
	}
	warm := func() (string, error) {
		cache := t.TempDir()
		out, errs, err := harness.Run(t, env, "warm", "--require-proof", "--cache-dir", cache, project)
		if stored, _ := filepath.Glob(filepath.Join(cache, "p/*")); err != nil && len(stored) > 0 {
			t.Errorf("%q was stored without a proof", stored)
		}
		return out + errs, err
	}
	if said, err := warm(); err != nil {
		t.Fatalf("warm: %v, %q", err, said)
	}
	proof := "/z/" + hashes[1] + ".tlog-proof"
	truth := s.Get(proof)
	for why, lie := range map[string]struct {
		path string
		body []byte
	}{
		"of another package":     {proof, s.Get("/z/" + hashes[0] + ".tlog-proof")},
		"does not hold":          {proof, bytes.Replace(truth, []byte("index 3\n"), []byte("index 2\n"), 1)},
		"malformed":              {proof, truth[:len(truth)/3]},
		"two trees of 4 entries": {"/log/checkpoint", checkpoint(4)},
		"cannot be proved":       {"/log/checkpoint", checkpoint(5)},
		"was set back":           {"/log/checkpoint", checkpoint(0)},
		"not signed by the key":  {"/log/checkpoint", []byte("nothing")},
	} {
		lies.Store(lie.path, lie.body)
		if said, err := warm(); err == nil || !strings.Contains(said, why) {
			t.Errorf("%s: warm: %v, %q", why, err, said)
		}
		lies.Delete(lie.path)
	}
	if said, err := warm(); err != nil {
		t.Errorf("warm after all lies: %v, %q", err, said)
	}

	// A tile is cut that it takes to see that the log goes on.
	repo := up.Repo("three")
	repo.Release("v1.0.0")
	s.Fetch(repo.URL)
	s.Log(6)
	const tile = "/log/tile/0/000.p/6"
	lies.Store(tile, s.Get(tile)[:50])
	if said, err := warm(); err == nil || !strings.Contains(said, "cannot be proved") {
		t.Errorf("with a tile that is cut: warm: %v, %q", err, said)
	}
	lies.Delete(tile)
	if said, err := warm(); err != nil {
		t.Errorf("warm with the whole tile: %v, %q", err, said)
	}
}

// A foreign witness cosigns the log of a running server, and whoever runs that is told when it does not.
func TestLogWitness(t *testing.T) {
	t.Parallel()
	w := ledgertest.NewWitness(t, "witness.example/w")
	dir := t.TempDir()
	file, key := filepath.Join(dir, "witnesses"), filepath.Join(dir, "log.key")
	if err := os.WriteFile(file, []byte(w.Line()+"quorum "+w.Name+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	env := []string{"PACKBASE_LOG_NAME=mirror.example/log", "PACKBASE_LOG_WITNESSES=" + file, "PACKBASE_LOG_KEY_FILE=" + key}
	public, errs, err := harness.Run(t, env, "log", "key", "--new")
	if err != nil {
		t.Fatalf("log key --new: %v\n%s", err, errs)
	}
	w.Know("mirror.example/log", strings.TrimSpace(public))
	s := harness.Start(t, env...)
	repo := harness.NewUpstream(t).Repo("hello")
	repo.Release("v1.0.0")
	s.Fetch(repo.URL)
	shows := func(size string) bool { // with the cosignature, unless it ends with a question mark
		signed := string(s.Do(http.MethodGet, "/log/checkpoint", "", nil).Body)
		size, any := strings.CutSuffix(size, "?")
		return strings.HasPrefix(signed, "mirror.example/log\n"+size+"\n") && (any || strings.Contains(signed, "\n— witness.example/w "))
	}
	harness.Eventually(t, "the checkpoint is cosigned", func() bool { return shows("2") })
	s.Log(2)
	ready := func() string { return string(s.Get("/readyz")) }
	if !strings.Contains(ready(), `"witnesses":"ok"`) {
		t.Errorf("readyz: %s", ready())
	}
	if out, errs, err := harness.Run(t, s.Env, "doctor"); err != nil || !strings.Contains(out, "cosigned by 1 of 1 witness") {
		t.Errorf("doctor: %v\n%s%s", err, out, errs)
	}
	trust := func() (string, error) {
		out, errs, err := harness.Run(t, append(s.Env, "PACKBASE_URL="+s.URL, "XDG_CONFIG_HOME="+dir), "trust")
		return out + errs, err
	}
	if said, err := trust(); err != nil || !strings.Contains(said, "witness witness.example/w") {
		t.Errorf("trust: %v\n%s", err, said)
	}

	w.Hang()
	repo.Release("v1.1.0")
	s.Fetch(repo.URL)
	harness.Eventually(t, "readyz says that the witness is missing", func() bool { return strings.Contains(ready(), `"witnesses":"missing"`) })
	harness.Eventually(t, "the log goes on without it", func() bool { return shows("3?") })
	if out, _, err := harness.Run(t, s.Env, "doctor"); err == nil || !strings.Contains(out, "witness.example/w does not cosign: ") || !strings.Contains(out, "does not answer within 2s") {
		t.Errorf("doctor: %v\n%s", err, out)
	}
	if said, err := trust(); err == nil || !strings.Contains(said, "fewer witnesses cosigned it") {
		t.Errorf("a checkpoint without its quorum is trusted: %v\n%s", err, said)
	}
	w.Resume()
	harness.Eventually(t, "the witness is asked again", func() bool { return strings.Contains(ready(), `"witnesses":"ok"`) && shows("3") })
	if said, err := trust(); err != nil {
		t.Errorf("trust: %v\n%s", err, said)
	}
}

// A client that trusted the old key of a log follows to the new one, while both sign and later, and to no other key.
func TestLogRotation(t *testing.T) {
	t.Parallel()
	s := harness.Start(t)
	repo := harness.NewUpstream(t).Repo("hello")
	repo.Release("v1.0.0")
	s.Fetch(repo.URL)
	s.Log(2)
	early, late := t.TempDir(), t.TempDir()
	trust := func(home string) (string, error) {
		out, errs, err := harness.Run(t, append(s.Env, "PACKBASE_URL="+s.URL, "XDG_CONFIG_HOME="+home), "trust")
		return out + errs, err
	}
	rotate := func(args ...string) (public string, err error) {
		out, _, err := harness.Run(t, s.Env, append([]string{"log", "rotate"}, args...)...)
		return strings.TrimSpace(out), err
	}
	follows := func(home, public string) {
		t.Helper()
		if said, err := trust(home); err != nil || !strings.Contains(said, "\nlog "+public+"\n") {
			t.Errorf("trust: %v\n%s\nwant it to follow to %s", err, said, public)
		}
	}
	for _, home := range []string{early, late} {
		if said, err := trust(home); err != nil {
			t.Fatalf("trust: %v\n%s", err, said)
		}
	}
	if _, err := rotate("--finish"); err == nil {
		t.Error("the only key may go")
	}
	public, err := rotate()
	if err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "the new key signs", func() bool {
		return string(s.Get("/log/policy")) == "log "+public+"\nquorum none\n" && bytes.HasPrefix(s.Get("/log/checkpoint"), []byte(strings.Split(public, "+")[0]+"\n3\n"))
	})
	if e := s.Log(3)[2]; e.Value("vkey") != public {
		t.Errorf("the log ends with\n%s", e.Text())
	}
	follows(early, public)
	if got, err := rotate("--finish"); err != nil || got != public {
		t.Errorf("rotate --finish: %v, %s", err, got)
	}
	repo.Release("v1.1.0")
	s.Fetch(repo.URL)
	s.Log(4)
	follows(early, public)
	follows(late, public)
}
