package tests_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/francescobianco/packbase/storage/logbook"
	"github.com/francescobianco/packbase/tests/harness"
)

// packbase verify proves all of a project and of a bundle, with the server and without a network, and tells what became of it.
func TestVerify(t *testing.T) {
	t.Parallel()
	s, up := harness.Start(t), harness.NewUpstream(t)
	manifest := func(name, deps string) string {
		return fmt.Sprintf(".{ .name = .%s, .version = \"1.0.0\", .fingerprint = 0x%08x12345678, .paths = .{\"\"}, .dependencies = .{ %s } }\n",
			name, crc32.ChecksumIEEE([]byte(name)), deps)
	}
	var repo *harness.Repo
	publish := func(name, deps string) (dependency string) {
		repo = up.Repo(name)
		commit := repo.Commit(harness.Files{"src/root.zig": "// " + name + "\n", "build.zig.zon": manifest(name, deps)})
		repo.Release("v0.9.0") // one that stays: else it is frozen when the other moves
		repo.Tag("v1.0.0", commit)
		s.Fetch(repo.URL)
		return fmt.Sprintf(".%s = .{ .url = \"git+%s#%s\", .hash = \"%s\" }", name, repo.URL, commit, s.Info(name).Release(t, "v1.0.0").Zig.Hash)
	}
	one := publish("one", publish("two", ""))
	s.Log(6)
	dir, home, cache := t.TempDir(), t.TempDir(), t.TempDir()
	file := filepath.Join(dir, "app.tar")
	put := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put(filepath.Join(dir, "build.zig.zon"), []byte(manifest("app", one)))
	env := append(s.Env, "PACKBASE_URL="+s.URL, "XDG_CONFIG_HOME="+home, "PATH=/nonexistent", "ZIG_GLOBAL_CACHE_DIR="+cache)
	run := func(args ...string) (string, error) {
		out, errs, err := harness.Run(t, env, args...)
		return out + errs, err
	}
	says := func(want string, args ...string) {
		t.Helper()
		if said, err := run(args...); err != nil || !strings.Contains(said, want) {
			t.Errorf("%q: %v, %s; want %q", args, err, said, want)
		}
	}
	refuses := func(want string, args ...string) {
		t.Helper()
		if said, err := run(args...); err == nil || !strings.Contains(said, want) {
			t.Errorf("%q: %v, %s; want it refused, and %q", args, err, said, want)
		}
	}
	says("2 packages", "bundle", "-o", file, dir)

	// A pipe, or what a link leads to, is written to, and no file takes the place of either.
	pipe, link := filepath.Join(dir, "pipe"), filepath.Join(dir, "link")
	put(filepath.Join(dir, "linked"), nil)
	if err := errors.Join(syscall.Mkfifo(pipe, 0o600), os.Symlink("linked", link)); err != nil {
		t.Fatal(err)
	}
	poured := make(chan []byte, 1)
	go func() {
		b, _ := os.ReadFile(pipe)
		poured <- b
	}()
	says("", "bundle", "-o", pipe, dir)
	says("2 packages", "bundle", "-o", link, dir)
	for name, kind := range map[string]os.FileMode{pipe: os.ModeNamedPipe, link: os.ModeSymlink} {
		if info, err := os.Lstat(name); err != nil || info.Mode().Type() != kind {
			t.Fatalf("%s is %v now, %v", name, info.Mode(), err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if linked, err := os.ReadFile(link); err != nil || !bytes.Equal(linked, want) || !bytes.Equal(<-poured, want) {
		t.Errorf("the bundle in a pipe, or behind a link, is another one (%v)", err)
	}
	refuses("packbase trust does so", "verify", file)
	says("ok", "trust")
	says("2 packages proved", "verify", file)
	refuses("packbase warm brings it", "verify", dir)
	says("2 packages", "warm", dir)
	says("2 packages proved", "verify", dir)

	// Nobody can be asked.
	away := append(env, "PACKBASE_URL=http://127.0.0.1:1")
	env, away = away, env
	says("nobody is asked", "verify", file)
	says("2 packages proved", "verify", "--offline", file)
	says("2 packages proved", "verify", "--offline", dir)
	folders, err := filepath.Glob(filepath.Join(cache, "p/*-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range folders {
		if info, err := os.Stat(folder); err == nil && info.IsDir() {
			if err := os.RemoveAll(folder); err != nil {
				t.Fatal(err)
			}
		}
	}
	says("2 packages proved", "verify", "--offline", dir) // from tarballs, as Zig from 0.16 on has them
	says("2 packages", "warm", "--require-proof", "--from", file, "--cache-dir", t.TempDir())

	// What is damaged, cut, of another package or not there is no proof, and said to be none.
	proofs, err := filepath.Glob(filepath.Join(cache, "p/*.tlog-proof"))
	if err != nil || len(proofs) != 2 {
		t.Fatalf("the cache has %q, %v", proofs, err)
	}
	truth, err := os.ReadFile(proofs[0])
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(proofs[1])
	if err != nil {
		t.Fatal(err)
	}
	for want, lie := range map[string][]byte{
		"no whole proof":     truth[:40],
		"does not hold":      bytes.Replace(truth, []byte("\nindex "), []byte("\nindex 1"), 1),
		"of another package": other,
		"no proof of it":     nil,
	} {
		if put(proofs[0], lie); lie == nil {
			if err := os.Remove(proofs[0]); err != nil {
				t.Fatal(err)
			}
		}
		refuses(want, "verify", "--offline", dir)
	}
	put(proofs[0], truth)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	put(file, bytes.Replace(whole, []byte(`\nindex 2\n`), []byte(`\nindex 1\n`), 1))
	refuses("does not hold", "verify", "--offline", file)
	put(file, whole[:len(whole)/2])
	refuses("not a bundle", "verify", "--offline", file)
	put(file, whole)

	// Another machine, which has never seen a network, is given the policy; and one that trusts another key.
	policy := filepath.Join(dir, "policy")
	put(policy, s.Get("/log/policy"))
	env = append(env, "XDG_CONFIG_HOME="+t.TempDir())
	refuses("want the policy in a file", "trust", "--offline", "https://mirror.example")
	says("signed as follows", "trust", "--offline", "--policy", policy, "https://mirror.example")
	says("2 packages proved", "verify", "--offline", file)
	stranger, err := logbook.NewSigner("mirror.example/log")
	if err != nil {
		t.Fatal(err)
	}
	put(policy, logbook.Policy(stranger.Public))
	env = append(env, "XDG_CONFIG_HOME="+t.TempDir())
	says("signed as follows", "trust", "--offline", "--policy", policy, "https://mirror.example")
	refuses("no trusted key has signed", "verify", "--offline", file)

	// With a network again: the log has to go on from all that was seen without.
	env = away
	secret, err := os.ReadFile(filepath.Join(s.Root, "log.key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := logbook.ParseSigner(string(secret))
	if err != nil {
		t.Fatal(err)
	}
	lie, err := key.Sign(tlog.Tree{N: 1, Hash: tlog.RecordHash([]byte("a lie"))})
	if err != nil {
		t.Fatal(err)
	}
	trusted, err := filepath.Glob(filepath.Join(home, "packbase/trust/*.json"))
	if err != nil || len(trusted) != 1 {
		t.Fatalf("trusted: %q, %v", trusted, err)
	}
	seen, err := os.ReadFile(trusted[0])
	if err != nil {
		t.Fatal(err)
	}
	var known map[string]any
	if err := json.Unmarshal(seen, &known); err != nil {
		t.Fatal(err)
	}
	known["unproved"] = []string{string(lie)}
	raw, err := json.Marshal(known)
	if err != nil {
		t.Fatal(err)
	}
	put(trusted[0], raw)
	refuses("what was seen without a network", "verify", dir)
	put(trusted[0], seen)

	// What becomes of it is told, from the log.
	repo.Tag("v1.0.0", repo.Commit(harness.Files{"b.zig": ""}))
	s.Fetch(repo.URL)
	s.Log(7)
	says("moved: upstream names", "verify", dir)
	says("2 packages", "bundle", "-o", file, dir)
	says("moved: upstream names", "verify", "--offline", file)
	s.Do(http.MethodPost, "/api/remove", `{"package":"one","tag":"v1.0.0","reason":"it held a key"}`, nil)
	s.Log(8)
	refuses("withdrawn: the mirror serves it no more", "verify", dir)
	refuses(`"withdrawn":1`, "verify", "--json", dir)
	refuses("--repair is of a server's blobs", "verify", "--repair", dir)
}
