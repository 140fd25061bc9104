package zigpkg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// generatedTrees is how many generated packages TestRealZig puts to each Zig. A fetch
// takes about 10 ms.
const generatedTrees = 60

// A zig is a Zig executable and where it keeps what it fetches.
type zig struct {
	path    string
	release releases
	args    []string // that say where
}

// realZigs returns the executables that PACKBASE_TEST_ZIGS lists, colon-separated.
func realZigs(t *testing.T) []zig {
	t.Helper()
	list := os.Getenv("PACKBASE_TEST_ZIGS")
	if list == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("PACKBASE_TEST_ZIGS is not set")
		}
		t.Skip("PACKBASE_TEST_ZIGS does not name any zig executable, as in /opt/zig-0.13.0/zig:/opt/zig-0.16.0/zig")
	}
	var zigs []zig
	for _, path := range filepath.SplitList(list) {
		out, err := exec.Command(path, "version").Output()
		if err != nil {
			t.Fatalf("%s version: %v", path, err)
		}
		z := zig{path: path}
		for i, name := range releaseNames {
			if strings.HasPrefix(string(out), name+".") {
				z.release = 1 << i
			}
		}
		switch z.release {
		case 0:
			t.Fatalf("%s is Zig %s, want one of %v", path, out, releaseNames)
		case zig017:
			// The cache also holds the compiled "zig fetch", which takes a minute to
			// build, so it must be the user's.
		default:
			z.args = []string{"--global-cache-dir", t.TempDir()}
		}
		zigs = append(zigs, z)
	}
	return zigs
}

// mutants returns how many mutated manifests TestRealZig puts to each Zig, and
// what to make them of. PACKBASE_TEST_LONG asks for so many new ones.
func mutants(t *testing.T) (count int, seed uint64) {
	t.Helper()
	long := os.Getenv("PACKBASE_TEST_LONG")
	if long == "" {
		return 60, 1
	}
	count, err := strconv.Atoi(long)
	if err != nil {
		t.Fatalf("PACKBASE_TEST_LONG: %v", err)
	}
	return count, rand.Uint64()
}

// fetchTime and maxOutput are what a Zig may need for one package: some
// manifests make it print for ever.
const (
	fetchTime = 2 * time.Minute // the first fetch of 0.17 compiles
	maxOutput = 1 << 20
)

// A capped keeps the start of what is written to it, and takes no more than maxOutput.
//
// The buffer is not embedded: its ReadFrom would take everything.
type capped struct{ kept bytes.Buffer }

func (o *capped) Write(b []byte) (int, error) {
	if o.kept.Len() > maxOutput {
		return 0, errors.New("too much output")
	}
	return o.kept.Write(b)
}

func (o *capped) String() string { return o.kept.String() }

// fetch runs z in project on the package in dir. It returns the hash that z prints,
// "" if z refuses the package, and all of the output.
func (z zig) fetch(t *testing.T, project, dir string) (hash, output string) {
	t.Helper()
	args := slices.Concat([]string{"fetch", "--debug-hash"}, z.args, []string{dir})
	ctx, cancel := context.WithTimeout(t.Context(), fetchTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, z.path, args...)
	cmd.Dir, cmd.WaitDelay = project, time.Second
	var stdout, stderr capped
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			t.Errorf("%s did not end", cmd)
		}
		return "", fmt.Sprintf("%v: %.2000s", err, stderr.String())
	}
	lines := strings.Split(strings.TrimSuffix(stdout.String(), "\n"), "\n")
	return lines[len(lines)-1], stdout.String()
}

// Every hash is the one that Zig prints, and what Zig refuses is refused here.
func TestRealZig(t *testing.T) {
	t.Parallel()
	zigs := realZigs(t)

	trees := map[string]tree{}
	for _, tt := range manifestCases {
		trees[tt.name] = tree{ManifestName: tt.src, "src/a.zig": "aaa"}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range generatedTrees {
		trees[fmt.Sprintf("generated %d", i)] = randomTree(rng)
	}
	count, seed := mutants(t)
	t.Logf("seed %d of the mutants", seed)
	rng = rand.New(rand.NewPCG(seed, 0))
	for i := range count {
		trees[fmt.Sprintf("mutant %d", i)] = tree{ManifestName: mutant(rng), "src/a.zig": "aaa"}
	}
	dirs := map[string]string{}
	for name, tree := range trees {
		dirs[name] = t.TempDir()
		tree.write(t, dirs[name])
	}

	for _, z := range zigs {
		t.Run(z.release.String(), func(t *testing.T) {
			t.Parallel()
			project := t.TempDir()
			// Zig 0.16.0 does not fetch outside of a project.
			if err := os.WriteFile(filepath.Join(project, "build.zig"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			for name, tree := range trees {
				got, reason := tree.hashBy(t, z.release)
				want, output := z.fetch(t, project, dirs[name])
				if got != want {
					t.Errorf("%s: got %q (%s), want %q\n%s\n%q", name, got, reason, want, output, tree)
				}
			}
		})
	}
}

// hashBy returns the hash that zig fetch of the release should print, or "" and why.
func (tr tree) hashBy(t *testing.T, release releases) (hash, reason string) {
	t.Helper()
	var m *Manifest
	if src, ok := tr[ManifestName]; ok {
		var err error
		if m, err = ParseManifest([]byte(src)); err != nil {
			return "", err.Error()
		}
		if m.usable&release == 0 {
			return "", strings.Join(m.Refusals, "; ")
		}
		if m.Paths == nil {
			return "", strings.Join(m.Warnings, "; ")
		}
	}
	h := Sum(m, tr.entries(t))
	if release&upTo013 != 0 {
		return h.Legacy, ""
	}
	return h.Hash, ""
}

func (tr tree) write(t *testing.T, dir string) {
	t.Helper()
	for path, content := range tr {
		link, isLink := strings.CutSuffix(path, "@")
		file := filepath.Join(dir, link)
		err := os.MkdirAll(filepath.Dir(file), 0o755)
		switch {
		case err != nil:
		case isLink:
			err = os.Symlink(content, file)
		default:
			err = os.WriteFile(file, []byte(content), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	// Empty directories are no part of a package.
	if err := os.MkdirAll(filepath.Join(dir, "empty/empty"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// randomTree makes up a package. No file has the path of a directory.
func randomTree(rng *rand.Rand) tree {
	pick := func(words ...string) string { return words[rng.IntN(len(words))] }
	tr := tree{}
	for range rng.IntN(12) {
		path := pick("a", "a-b", "a.b", "B", "src/a", "src/a/b", "src/é", "日本/語", "sp ace/x", "\xff") +
			pick(".zig", "-c", ".é", "e\u0301", "/x", "/x.y/z", "~", ";", "'", "\\", "\n")
		if rng.IntN(4) == 0 {
			tr[path+"@"] = pick("nosuch", "../../../etc/passwd", "/etc", "a", ".", "日本")
			continue
		}
		tr[path] = pick("", "aaa", "#!/bin/sh\n", "\x7fELF", strings.Repeat("x", 70_000), "\x00\r\n")
	}
	for path := range tr { // both a file and a link
		delete(tr, path+"@")
	}
	if rng.IntN(4) > 0 {
		tr[ManifestName] = zon(
			"name", pick(".foo", ".foo", `"foo"`, `"foo"`, `"a.b"`, `.@"foo"`),
			"version", pick(`"1.2.3"`, `"1.2.3-dev.1+x-y"`, `"1_0.0.0"`, `"1.2"`),
			"fingerprint", pick("0x8c73652112345678", "0x8c736521_ffff0000", "", "", "1"),
			"paths", pick("", `.{""}`, `.{"."}`, ".{\"src\"}", `.{"src/", "build.zig.zon"}`,
				`.{"./src/a", "日本"}`, `.{"x/../a.b.zig", "..", "/"}`, `.{"nosuch"}`, `.{"\xff.zig", "sp ace"}`),
		)
	}
	return tr
}

// mutant makes up a manifest that is good, or changed in one place. All of its
// fields are some that Zig reads, and one change does not make a field unknown
// and its value bad: of such values Zig knows a grammar, ParseManifest does not.
func mutant(rng *rand.Rand) string {
	pick := func(words ...string) string { return words[rng.IntN(len(words))] }
	name, fingerprint := ".foo", "0x8c73652112345678"
	if rng.IntN(3) == 0 {
		name, fingerprint = `"foo"`, "" // up to 0.13, which do not read the latter
	}
	src := zon(
		"name", name, "fingerprint", fingerprint,
		"version", pick(`"1.2.3"`, `"1.2.3-rc.1+b"`),
		"minimum_zig_version", pick("", `"0.14.0"`),
		"dependencies", pick("", ".{}",
			`.{ .a = .{ .url = "https://h/a.tar.gz", .hash = "`+pick(newHash, legacyHash)+`", .lazy = `+pick("true", "false")+` } }`,
			`.{ .@"b c" = .{ .path = "../b" }, .d = .{ .url = "git+https://h/d#1" }, }`),
		"paths", pick(`.{""}`, `.{"src", "build.zig.zon"}`, `.{
        "src",
        //
        "build.zig.zon",
    }`),
	)
	if rng.IntN(3) > 0 {
		at, cut := rng.IntN(len(src)+1), rng.IntN(3)
		put := pick("", " ", "\n", "\t", "\r", "\x00", "\x7f", "\xff", "é", "\u2028", "\ufeff", `"`, `'`, `\`, `\\`, `\x2e`, `\u{66}`, `\u{d800}`, `\n`, "//", "///", "//!",
			".", ",", "=", "{", "}", ".{", "}}", "(", "[", "@", `@""`, "-", "+", "_", "0", "9", "0x", "0b1", "1_0", "1.0", "a", "A", "true", "test", "error.", "&")
		src = src[:at] + put + src[min(at+cut, len(src)):]
	}
	return src
}

// The packages are the same at every run, and neither all good nor all bad.
func TestRandomTree(t *testing.T) {
	t.Parallel()
	a, b := rand.New(rand.NewPCG(1, 2)), rand.New(rand.NewPCG(1, 2))
	good := 0
	for i := range generatedTrees {
		one, two := randomTree(a), randomTree(b)
		if !maps.Equal(one, two) {
			t.Fatalf("tree %d: got %q and %q, want the same", i, slices.Sorted(maps.Keys(one)), slices.Sorted(maps.Keys(two)))
		}
		if hash, _ := one.hashBy(t, zig015); hash != "" {
			good++
		}
	}
	if good < generatedTrees/4 || good > generatedTrees*3/4 {
		t.Errorf("Zig 0.15 accepts %d of %d trees, want between a quarter and three", good, generatedTrees)
	}
	good = 0
	for range 1000 {
		if hash, _ := (tree{ManifestName: mutant(a)}).hashBy(t, zig014); hash != "" {
			good++
		}
	}
	if good < 250 || good > 750 {
		t.Errorf("Zig 0.14 accepts %d of 1000 mutants, want between a quarter and three", good)
	}
}
