package browser_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/francescobianco/packbase/storage/engines"
	"github.com/francescobianco/packbase/tests/harness"
	"github.com/francescobianco/packbase/tests/harness/engine"
)

// mostClicks is how many a task may take, from the dashboard on. To search is
// one, as is to fill in a form.
const mostClicks = 3

// TestNewcomer does what people come for: each in a few clicks, or by one
// command. PACKBASE_SCREENSHOTS has a picture of where each ends.
func TestNewcomer(t *testing.T) {
	t.Parallel()
	e := engine.New(t, engines.Options{})
	s, up := harness.Start(t, e.Env()...), harness.NewUpstream(t)
	argsLibrary(up)
	library(up.Repo("agrs"), "agrs", "v0.1.0")
	old := up.Repo("old")
	old.Tag("v1.0.0", old.Commit(harness.Files{"build.zig.zon": ".{ .name = \"old\", .version = \"1.0.0\", .paths = .{\"\"} }\n"}))
	for _, name := range []string{"args", "agrs", "old"} {
		s.Fetch(up.URL + "/" + name)
	}
	s.WaitJob(s.Ask(up.URL + "/nothing"))

	// A project that depends on args.
	dir, home := t.TempDir(), t.TempDir()
	env := append(s.Env, "PACKBASE_URL="+s.URL, "PACKBASE_TOKEN="+s.Token, "XDG_CONFIG_HOME="+home, "ZIG_GLOBAL_CACHE_DIR="+t.TempDir())
	zon := fmt.Sprintf(".{ .name = .app, .version = \"0.0.0\", .fingerprint = 0x%08x00000001, .paths = .{\"\"},\n.dependencies = .{ .args = .{ .url = \"git+%s/args#v0.11.0\", .hash = %q } } }\n",
		checksum("app"), up.URL, s.Info("args").Release(t, "v0.11.0").Zig.Hash)
	if err := os.WriteFile(filepath.Join(dir, "build.zig.zon"), []byte(zon), 0o600); err != nil {
		t.Fatal(err)
	}
	// command is a task by one command, which has to say something.
	command := func(task, want string, args ...string) {
		t.Helper()
		out, errs, err := harness.Run(t, env, args...)
		if err != nil || !strings.Contains(out+errs, want) {
			t.Errorf("%s: packbase %s: %v\n%s%s\nwant %q", task, strings.Join(args, " "), err, out, errs, want)
		}
		t.Logf("%s: one command, packbase %s", task, strings.Join(args, " "))
	}
	command("mirror my project", "1 package", "capture", "--wait", "--name", "app", dir)

	b := newTab(t, s.URL)
	b.mayCopy()
	clicks := 0
	click := func(selector string) { t.Helper(); clicks++; b.click(selector) }
	search := func(what string) {
		t.Helper()
		clicks++
		b.write("#find", what)
		b.do(chromedp.KeyEvent("\r"))
		b.await("#results", what)
	}
	// task is one on the pages: do ends where selector says want.
	task := func(name, selector, want string, do func()) {
		t.Helper()
		b.open("/")
		b.await("#headline h1", "")
		clicks = 0
		do()
		b.await(selector, want)
		if clicks > mostClicks {
			t.Errorf("%s takes %d clicks, want at most %d", name, clicks, mostClicks)
		}
		t.Logf("%s: %d clicks", name, clicks)
		b.shoot("newcomer-" + strings.ReplaceAll(name, " ", "-"))
	}
	task("use a package with my Zig", "#release", `exe.root_module.addImport("args"`, func() {
		search("args")
		click(`#results a[href="/args"]`)
		b.await("#release", "zig fetch --save "+s.URL+"/p/args/tag/v0.11.0.tar.gz")
	})
	task("why my Zig does not take it", ".refusals", "expected enum literal", func() {
		search("old")
		click(`#results a[href="/old"]`)
	})
	task("what changed", "#changes", "icon.svg", func() {
		search("args")
		click(`#results a[href="/args"]`)
		click(`#release a[href^="/args/diff"]`)
	})
	task("who depends on it", "#dependents", "app", func() {
		search("args")
		click(`#results a[href="/args"]`)
	})
	task("follow a failed job", "#job", "Upstream has no such repository", func() {
		click("#failures a")
	})
	task("remove a typo", "h1", "Packages", func() {
		b.open("/agrs") // where one is who saw the typo
		click("#manage > summary")
		b.write("#reason", "a typo")
		click("#remove [type=submit]")
		b.click("#sure-go")
		b.write("#token", s.Token) // once in each tab
		b.click("#ask [value=go]")
		clicks++
	})

	task("is it tampered with", "#release", "when nothing was changed on the way", func() {
		search("args")
		click(`#results a[href="/args"]`)
	})
	for _, once := range [][]string{{"trust"}, {"warm", dir}} {
		if out, errs, err := harness.Run(t, env, once...); err != nil {
			t.Fatalf("packbase %s: %v\n%s%s", once[0], err, out, errs)
		}
	}
	command("is my project tampered with", "proved", "verify", dir)
	command("put it into CI", "http_proxy", "env", "--for", "github")

	// An edge is one command: up --central.
	edge := harness.StartEdge(t, s.URL)
	harness.Eventually(t, "the edge has what its central has", func() bool {
		return edge.Do("GET", "/p/args/tag/v0.11.0.tar.gz", "", nil).Status == 200
	})
	at := newTab(t, edge.URL)
	at.open("/args")
	at.await("#release", "zig fetch --save "+edge.URL)
	at.shoot("newcomer-edge")
}
