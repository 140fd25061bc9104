package browser_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/francescobianco/packbase/storage/engines"
	"github.com/francescobianco/packbase/tests/harness"
	"github.com/francescobianco/packbase/tests/harness/engine"
)

// axe returns the source of axe-core, as testdata/axe pins it.
func axe(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("npm"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("there is no npm to bring axe-core")
		}
		t.Skip("there is no npm to bring axe-core")
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "axe"))); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	source, err := os.ReadFile(filepath.Join(dir, "node_modules", "axe-core", "axe.min.js"))
	if err != nil {
		t.Fatal(err)
	}
	return string(source)
}

// What axe finds on the page as it is: WCAG 2.2 AA and what it calls good practice.
const runAxe = `axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'], resultTypes: ['violations']})
	.then((r) => r.violations.flatMap((v) => v.nodes.map((n) => v.id + ': ' + n.html.slice(0, 160) + ' ' + (n.any[0] || n.all[0] || n.none[0] || {}).message + ' ' + n.any.flatMap((c) => c.relatedNodes.map((e) => e.html.slice(0, 80))).join())))`

// TestAxe holds each kind of page to axe, light and dark, from a small phone to
// a wide screen.
func TestAxe(t *testing.T) {
	t.Parallel()
	source := axe(t)
	s, pages := everyPage(t)
	b := newTab(t, s.URL)
	for _, path := range pages {
		b.open(path)
		eval[bool](b, source+"; true")
		b.axe(path)
		for _, width := range []int64{360, 640, 960, 1600} {
			for _, scheme := range []string{"light", "dark"} {
				b.do(looks(width, scheme))
				for _, problem := range eval[[]string](b, audit) {
					t.Errorf("%s, %d wide, %s: %s", path, width, scheme, problem)
				}
			}
		}
	}

	for name, dialog := range map[string]struct{ page, open, shows string }{
		"token":  {"/args", `document.querySelector("#sync").click()`, "#token"},
		"remove": {"/args", `document.querySelector("#manage").open = true, document.querySelector("#reason").value = "a typo", document.querySelector("#remove").requestSubmit()`, "#sure-go"},
		"rename": {"/args", `document.querySelector("#manage").open = true, document.querySelector("#new-name").value = "arguments", document.querySelector("#rename").requestSubmit()`, "#sure-go"},
		"keep":   {"/pkg-00007", `document.querySelector("#keep").click()`, "#sure-go"},
	} {
		b.open(dialog.page)
		eval[bool](b, source+"; true")
		eval[bool](b, dialog.open+", true")
		b.do(chromedp.WaitVisible(chromedp.CSS(dialog.shows)))
		b.axe("the dialog of " + name)
	}
}

// axe holds what the tab shows to axe: contrast depends on the scheme, and what is where on the width.
func (b *tab) axe(name string) {
	b.t.Helper()
	for _, width := range []int64{360, 1600} {
		for _, scheme := range []string{"light", "dark"} {
			b.do(looks(width, scheme))
			for _, problem := range eval[[]string](b, runAxe) {
				b.t.Errorf("%s, %d wide, %s: %s", name, width, scheme, problem)
			}
		}
	}
}

// everyPage returns a packbase that has all that pages show, and the paths of
// each kind of page.
func everyPage(t *testing.T) (*harness.Server, []string) {
	t.Helper()
	e := engine.New(t, engines.Options{})
	s, up := harness.Start(t, e.Env()...), harness.NewUpstream(t)
	args := argsLibrary(up)
	args.Tag("v0.10.1", args.Commit(harness.Files{"src/root.zig": "pub const version = \"0.11.0\";\n"})) // says another version
	s.Fetch(up.URL + "/args")
	args.Tag("v0.2.0", args.Commit(harness.Files{"evil": "this was not here\n"}))
	args.Tag("v2.0.0", args.CommitTree("120000 blob "+args.Blob("../../../../etc/passwd")+"\tlink"))
	done := s.Fetch(up.URL + "/args").JobID
	failed := s.Ask(up.URL + "/nothing")
	s.WaitJob(failed)
	crowd(t, s.DatabaseURL)
	return s, []string{
		"/", "/packages", "/packages?q=no+such+thing", "/packages?filter=frozen", "/args", "/args?tag=v0.2.0", "/args?tag=v0.10.1", "/pkg-00007", "/pkg-00042", "/pkg-00200",
		"/args/files", "/args/files?path=README.md", "/args/files?path=build.zig", "/args/files?path=icon.svg", "/args/diff", "/args/diff?from=v0.1.0",
		"/jobs", "/jobs?state=running", "/jobs/" + failed, "/jobs/" + done, "/trees", "/trees/editor", "/trees/game", "/nope", "/arg",
	}
}

// argsLibrary is a library of the kind that most are.
func argsLibrary(up *harness.Upstream) *harness.Repo {
	args := up.Repo("args")
	library(args, "args", "v0.1.0", "v0.2.0", "v0.9.0", "v0.10.0")
	args.Tag("v0.11.0", args.Commit(harness.Files{
		"README.md":     "# args\n\nA small library for command lines, with no surprises.\n\n## Use\n\n| a | b |\n| - | - |\n| 1 | [two](build.zig) |\n\n- [x] done\n\n```zig\nconst a = 1;\n```\n",
		"build.zig":     "pub fn build(b: *std.Build) void {\n    const target = b.standardTargetOptions(.{});\n    _ = b.addModule(\"args\", .{ .target = target });\n    _ = b.option(bool, \"strict\", \"Refuse what is not known\");\n}\n",
		"LICENSE":       "SPDX-License-Identifier: MIT\n",
		"icon.svg":      `<svg xmlns="http://www.w3.org/2000/svg"/>`,
		"build.zig.zon": fmt.Sprintf(".{ .name = .args, .version = \"0.11.0\", .minimum_zig_version = \"0.15.1\", .fingerprint = 0x%08x00000001, .paths = .{\"\"} }\n", checksum("args")),
	}))
	return args
}
