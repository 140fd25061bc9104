package tests_test

import (
	"html"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/tests/harness"
)

// Each Zig takes a package from packbase as it does from upstream: the same
// hash by each kind of URL, which is what packbase says, and a project builds
// with it when upstream has gone.
func TestZig(t *testing.T) {
	t.Parallel()
	for _, z := range harness.Zigs(t) {
		t.Run(z.Version, func(t *testing.T) {
			t.Parallel()
			z := z.For(t)
			up := harness.NewUpstream(t)
			s := harness.Start(t)
			for name, files := range map[string]harness.Files{
				"hello":   z.Package("hello", "1.2.3", "hello"),
				"naked":   {"a.txt": "a", "b/run.sh*": "#!/bin/sh\n", "b/data*": "data", "link@": "b/data", "é": ""},
				"wrapped": {"only/a.txt": "a", "only/b/c": "c"}, // in one folder
				"single":  {"a.zig": "a"},
			} {
				testZigFetch(t, z, s, up.Repo(name), files)
			}
			up.Stop()
			testZigBuild(t, z, s)
		})
	}
}

// A package of commits alone is taken by the lines that the command line prints for it.
func TestZigSnapshots(t *testing.T) {
	t.Parallel()
	s, up := harness.Start(t), harness.NewUpstream(t)
	for _, z := range harness.Zigs(t) {
		repo := up.Repo("untagged-" + strings.ReplaceAll(z.Version, ".", "-"))
		repo.Commit(z.Package("hello", "1.2.3", "hello"))
		run := func(args ...string) string {
			out, said, err := harness.Run(t, []string{"PACKBASE_URL=" + s.URL, "PACKBASE_TOKEN=" + s.Token}, args...)
			if err != nil {
				t.Fatalf("%v: %v\n%s", args, err, said)
			}
			return out
		}
		if out := run("fetch", "--wait", repo.GitURL("main")); !strings.Contains(out, "1 snapshot here, 1 new") {
			t.Errorf("fetch says\n%s, want it to tell of one snapshot", out)
		}
		want, err := z.Fetch(repo.GitURL("main"))
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(repo.Dir)
		lines := zigFetches.FindAllStringSubmatch(run("info", name), -1)
		if len(lines) != 2 {
			t.Errorf("info prints %d lines for a project, want a tarball and a Git URL", len(lines))
		}
		ours := []string{"git+" + s.URL + "/" + name, "git+" + s.URL + "/" + name + "#main", s.URL + "/p/" + name + "/branch/main.tar.gz"}
		for _, line := range lines {
			ours = append(ours, line[1])
		}
		for _, url := range ours {
			if got, err := z.Fetch(url); got != want {
				t.Errorf("hash of %s = %q, %v, want %q as from upstream", url, got, err, want)
			}
		}
	}
}

var zigFetches = regexp.MustCompile(`(?m)^  zig fetch --save (\S+)$`)

// Odd packages have the hash that each Zig prints for them, and none where it
// refuses them.
func TestZigOddPackages(t *testing.T) {
	t.Parallel()
	s, up := harness.Start(t), harness.NewUpstream(t)
	packages := map[string]harness.Files{
		"folder":    {"build.zig.zon/x": "x"},
		"submodule": {"build.zig.zon&": "1234567890123456789012345678901234567890"},
		"linked":    {"build.zig.zon@": "nothing"},
		"to-folder": {"build.zig.zon@": "d", "d/x": "x"},
		"to-itself": {"build.zig.zon@": "build.zig.zon"},
		"through":   {"build.zig.zon@": "a.zig/x"},
		"links":     {"Versions/A/x": "x", "Versions/Current@": "A", "x@": "Versions/Current/x"},
		"names":     {"README": "1", "readme": "2", "é": "3", "e\u0301": "4", "D/x": "5", "d/x": "6"},
	}
	for name, files := range packages {
		repo := up.Repo(name)
		files["a.zig"] = "a"
		repo.Tag("v1.0.0", repo.Commit(files))
		s.Fetch(repo.URL)
	}
	for _, z := range harness.Zigs(t) {
		t.Run(z.Version, func(t *testing.T) {
			t.Parallel()
			z := z.For(t)
			for name := range packages {
				info := s.Info(name)
				r := info.Release(t, "v1.0.0")
				want, err := z.Fetch(up.Repo(name).GitURL("v1.0.0"))
				if got := z.Hash(r); got != want {
					t.Errorf("%s: packbase says %q (%s), want %q (%v)", name, got, r.Zig.Problem, want, err)
				}
				if (want == "") != (r.Zig.Problem != "") {
					t.Errorf("%s: problem = %q, but Zig says %q, %v", name, r.Zig.Problem, want, err)
				}
				if warned := len(r.Zig.Warnings) > 0; warned != (name == "names") {
					t.Errorf("%s: warnings = %q", name, r.Zig.Warnings)
				}
				if want == "" {
					continue
				}
				if got, err := z.Fetch(s.URL + r.URL); got != want {
					t.Errorf("%s: hash of the tarball = %q, %v, want %q", name, got, err, want)
				}
			}
		})
	}
}

// Each line that packbase offers for build.zig.zon works as it is pasted, also
// where the manifest does not say what the package is called: of many real
// packages it does not, or there is none.
func TestPastedLines(t *testing.T) {
	t.Parallel()
	s, up := harness.Start(t), harness.NewUpstream(t)
	repo := up.Repo("owner/zig-2no-manifest")
	repo.Tag("v1.0.0", repo.Commit(harness.Files{"src/root.zig": "pub const x = 1;\n"}))
	s.Fetch(repo.URL)
	stdout, stderr, err := harness.Run(t, append(s.Env, "PACKBASE_URL="+s.URL), "info", "zig-2no-manifest", "v1.0.0")
	if err != nil {
		t.Fatalf("%v: %s", err, stderr)
	}
	page := html.UnescapeString(string(s.Do(http.MethodGet, "/zig-2no-manifest", "", http.Header{"Accept": {"text/html"}}).Body))
	pasted := regexp.MustCompile(`zig (fetch --save\S* [^\s<]+)`)
	lines := pasted.FindAllStringSubmatch(stdout+page, -1)
	if len(lines) != 4 {
		t.Fatalf("lines %q, want one for the tarball and one for Git, on the terminal and on the page", lines)
	}
	for _, z := range harness.Zigs(t) {
		t.Run(z.Version, func(t *testing.T) {
			t.Parallel()
			z := z.For(t)
			for _, line := range lines {
				dir := z.Project("project", "")
				if _, err := z.Run(dir, strings.Fields(line[1])...); err != nil {
					t.Errorf("%s: %v", line[1], err)
				}
				zon, err := os.ReadFile(filepath.Join(dir, "build.zig.zon"))
				if err != nil || !strings.Contains(string(zon), "zig_2no_manifest") {
					t.Errorf("%s: build.zig.zon is\n%s, %v", line[1], zon, err)
				}
			}
		})
	}
}

// The statement that packbase offers for build.zig gives the module to a program.
func TestPastedImport(t *testing.T) {
	t.Parallel()
	s, up := harness.Start(t), harness.NewUpstream(t)
	for _, z := range harness.Zigs(t) {
		if z.Version < "0.14" {
			continue // has no b.createModule
		}
		t.Run(z.Version, func(t *testing.T) {
			t.Parallel()
			z := z.For(t)
			name := "module" + strings.ReplaceAll(z.Version, ".", "")
			repo := up.Repo("owner/" + name)
			repo.Tag("v1.0.0", repo.Commit(harness.Files{"src/root.zig": "pub const x = 1;\n", "build.zig.zon": z.Manifest(name, "1.0.0"),
				"build.zig": `pub fn build(b: *@import("std").Build) void {
					const target = b.standardTargetOptions(.{});
					_ = b.addModule("the module", .{ .root_source_file = b.path("src/root.zig"), .target = target });
				}
			`}))
			s.Fetch(repo.URL)
			info := s.Info(name)
			if info.Build == nil || len(info.Build.Modules) != 1 {
				t.Fatalf("info has %+v, want one module", info.Build)
			}
			dir := z.Project("project", "")
			if _, err := z.Run(dir, "fetch", "--save", s.URL+info.Release(t, "v1.0.0").URL); err != nil {
				t.Fatal(err)
			}
			build := `pub fn build(b: *@import("std").Build) void {
				const target = b.standardTargetOptions(.{});
				const exe = b.addExecutable(.{ .name = "app", .root_module = b.createModule(.{ .root_source_file = b.path("main.zig"), .target = target }) });
				b.installArtifact(exe);
				` + info.Build.Modules[0].Import + "\n}\n"
			main := "const m = @import(\"the module\");\ncomptime { if (m.x != 1) unreachable; }\npub fn main() void {}\n"
			for file, text := range map[string]string{"build.zig": build, "main.zig": main} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := z.Run(dir, "build"); err != nil {
				t.Error(err)
			}
		})
	}
}

// testZigFetch mirrors a repository with files in two tags and a commit
// without one, and compares what z prints.
func testZigFetch(t *testing.T, z *harness.Zig, s *harness.Server, repo *harness.Repo, files harness.Files) {
	name := filepath.Base(repo.Dir)
	first := repo.Commit(files)
	repo.Tag("v1.0.0", first)
	between := repo.Commit(harness.Files{"only/between": "between"})
	last := repo.Commit(harness.Files{"only/between-": "", "only/last": "last"})
	repo.Annotate("v1.1.0", last)
	s.Fetch(repo.URL)
	s.Fetch(repo.GitURL(between))
	info := s.Info(name)
	v10, v11, snapshot := info.Release(t, "v1.0.0"), info.Release(t, "v1.1.0"), info.Snapshots[0]

	ours := "git+" + s.URL + "/" + name
	tests := []struct {
		name, url, upstream string
		want                wire.Tarball
	}{
		{"tarball", s.URL + v10.URL, repo.GitURL("v1.0.0"), v10},
		{"tarball by hash", s.URL + "/z/" + v10.Zig.Hash + ".tar.gz", repo.GitURL("v1.0.0"), v10},
		{"tag", ours + "#v1.0.0", repo.GitURL("v1.0.0"), v10},
		{"annotated tag", ours + ".git#v1.1.0", repo.GitURL("v1.1.0"), v11},
		{"commit", "git+" + s.URL + "/git/" + name + "#" + first, repo.GitURL(first), v10},
		{"newest", ours, repo.GitURL(""), v11},
		{"commit without tag", ours + "#" + between, repo.GitURL(between), snapshot},
		{"tarball of commit", s.URL + snapshot.URL, repo.GitURL(between), snapshot},
	}
	for _, tt := range tests {
		want, err := z.Fetch(tt.upstream)
		if err != nil {
			t.Fatalf("%s, %s: from upstream: %v", name, tt.name, err)
		}
		if got := z.Hash(tt.want); got != want {
			t.Errorf("%s, %s: packbase says %q (%s), want %q", name, tt.name, got, tt.want.Zig.Problem, want)
		}
		if got, err := z.Fetch(tt.url); got != want {
			t.Errorf("%s, %s: hash of %s = %q, %v, want %q as from upstream", name, tt.name, tt.url, got, err, want)
		}
	}
}

// testZigBuild builds a project with the package hello, saved both ways, and
// again from nothing but packbase.
func testZigBuild(t *testing.T, z *harness.Zig, s *harness.Server) {
	project := z.Project("user", "hello")
	manifest := filepath.Join(project, "build.zig.zon")
	for _, url := range []string{"git+" + s.URL + "/hello#v1.0.0", s.URL + "/p/hello/tag/v1.0.0.tar.gz"} {
		if err := os.WriteFile(manifest, []byte(z.Manifest("user", "0.0.0")), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := z.Run(project, "fetch", "--save=hello", url); err != nil {
			t.Fatal(err)
		}
		saved, err := os.ReadFile(manifest)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(saved), s.URL) {
			t.Errorf("saved no URL of packbase:\n%s", saved)
		}
		z.Forget(project)
		if err := os.RemoveAll(filepath.Join(project, "zig-out")); err != nil {
			t.Fatal(err)
		}
		if _, err := z.Run(project, "build"); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(project, "zig-out", "root.zig"))
		if want := "pub const text = \"hello\";\n"; string(got) != want {
			t.Errorf("built with %q, %v, want %q", got, err, want)
		}
	}
}

// The package that a new packbase has is one that Zig builds with, by the URL
// that packbase prints.
func TestHello(t *testing.T) {
	t.Parallel()
	zigs := harness.Zigs(t)
	s := harness.Up(t)
	url := "git+" + s.URL + "/hello#v0.1.0"
	if !s.API.Said("zig fetch --save " + url) {
		t.Errorf("packbase did not print how to fetch %s", url)
	}
	info := s.Info("hello")
	r := info.Release(t, "v0.1.0")
	for _, z := range zigs {
		if !slices.ContainsFunc(r.Zig.UsableWith, func(release string) bool { return strings.HasPrefix(z.Version, release+".") }) {
			continue
		}
		project := z.Project("user", "hello")
		if _, err := z.Run(project, "fetch", "--save", url); err != nil {
			t.Error(err)
			continue
		}
		saved, err := os.ReadFile(filepath.Join(project, "build.zig.zon"))
		if err != nil || !strings.Contains(string(saved), `"`+z.Hash(r)+`"`) {
			t.Errorf("zig %s saved, %v:\n%s\nwant the hash %s", z.Version, err, saved, z.Hash(r))
		}
		if _, err := z.Run(project, "build"); err != nil {
			t.Error(err)
		}
	}
}
