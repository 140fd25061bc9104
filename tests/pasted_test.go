package tests_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/tests/harness"
)

// What documents and help show and nobody can run here, by how it begins, and why.
var notPasted = map[string]string{
	// Documents.
	"make up":                               "installs what is missing, and runs until Ctrl-C; TestUpOnATerminal runs up",
	"docker build":                          "TestSingleContainer runs what the image does",
	"cp .env.example":                       "needs Docker; TestDockerReadsThem reads its files",
	"install -m 755":                        "changes the machine; TestStopTimes reads the units",
	"# .env: POSTGRES_PASSWORD":             "needs Docker; TestDockerReadsThem reads its files",
	"packbase up":                           "runs until Ctrl-C; most tests start one",
	"pg_dump --format":                      "TestBackup runs it",
	"pg_restore --exit-on-error":            "TestBackup runs it",
	"docker compose":                        "needs Docker; TestBackup does the same without",
	"packbase token create --scope read":    "its lines hold a token that was not made; TestPrivatePackage has such requests",
	"packbase remove hello v1.0.0 --reason": "removes what the other lines need; TestRemoval runs such lines",
}

var shellBlock = regexp.MustCompile("(?ms)^ *```sh\n(.*?)^ *```")

// Whoever pastes a line of the documents into a shell sees it work: each block is run as it stands, but for hosts.
func TestPastedDocuments(t *testing.T) {
	t.Parallel()
	p := newPasting(t)
	docs, err := filepath.Glob("../docs/*.md")
	if err != nil || len(docs) < 10 {
		t.Fatalf("%d documents, %v", len(docs), err)
	}
	ran, used := 0, map[string]bool{}
	for _, path := range append([]string{"../README.md"}, docs...) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range shellBlock.FindAllStringSubmatch(string(text), -1) {
			if start := startOf(strings.TrimSpace(found[1]), notPasted); start != "" {
				used[start] = true
				continue
			}
			ran++
			p.prepare(found[1])
			if out, err := p.paste(found[1]); err != nil {
				t.Errorf("%s: %v\n%s\n%s", filepath.Base(path), err, found[1], out)
			}
		}
	}
	if ran < 15 {
		t.Errorf("only %d blocks were run", ran)
	}
	for start := range notPasted {
		if !used[start] {
			t.Errorf("nothing begins with %q any more", start)
		}
	}
}

// What help shows and is not run here, by how it begins, and why. Servers run until they are stopped.
var notRun = map[string]string{
	"packbase up": "a server",
	"PACKBASE_DATABASE_URL=postgres://... PACKBASE_REDIS_URL=redis://... PACKBASE_TOKEN=... packbase api": "a server",
	"PACKBASE_DATABASE_URL=postgres://... PACKBASE_REDIS_URL=redis://... packbase worker":                 "a server",
	"PACKBASE_DATABASE_URL=postgres://... packbase replicate":                                             "a server",
	"PACKBASE_DATABASE_URL=postgres://... packbase rebuild":                                               "wants an empty database; TestRebuild runs it",
	"packbase status --watch":             "goes on until Ctrl-C; TestWatchStatus runs it",
	"packbase watch":                      "needs upstreams on this machine; TestLyingMirror runs it",
	"packbase review hello accept":        "no package is frozen here; TestCommands runs it",
	"packbase verify --evidence":          "no mirror lied here; TestLyingMirror runs it",
	"packbase log rotate":                 "changes the key of the log that others need; TestLogRotation runs it",
	`packbase remove hello --reason`:      "removes what others need; TestRemoval runs it",
	"packbase remove https://example.org": "nothing is stored of that URL; TestRemoval runs it",
	"packbase jobs cancel":                "no job is open for long here; TestRetryAndCancel runs it",
	"packbase jobs retry":                 "no job failed here; TestRetryAndCancel runs it",
	"packbase health --admin":             "there is no admin address here",
	"PACKBASE_DATABASE_URL=postgres://... PACKBASE_REDIS_URL=redis://... packbase doctor": "wants what else is on the machine as it should be; TestDoctor runs it",
	"packbase doctor": "wants what else is on the machine as it should be; TestDoctor runs it",
	"PACKBASE_DATABASE_URL=postgres://... packbase migrate": "every server here ran it",
	"packbase completion fish":                              "no fish",
	"packbase env --for fish":                               "no fish",
	"packbase compare":                                      "needs a second packbase; TestCompare runs it",
}

// Whoever pastes an example of --help sees it work.
func TestPastedExamples(t *testing.T) {
	t.Parallel()
	p := newPasting(t)
	p.examples()
	used := map[string]bool{}
	ran := 0
	for _, command := range p.commands() {
		help, err := p.paste("packbase " + command + " --help")
		if err != nil {
			t.Errorf("%s: %v", command, err)
		}
		_, examples, _ := strings.Cut(help, "\nExamples:\n")
		examples, _, _ = strings.Cut(examples, "\n\n")
		for line := range strings.Lines(examples) {
			line = strings.TrimSpace(line)
			if start := startOf(line, notRun); start != "" {
				used[start] = true
				continue
			}
			ran++
			if out, err := p.paste(p.set(line)); err != nil {
				t.Errorf("%s: %v\n%s", line, err, out)
			}
		}
	}
	if ran < 50 {
		t.Errorf("only %d examples were run", ran)
	}
	for start := range notRun {
		if !used[start] {
			t.Errorf("no example begins with %q any more", start)
		}
	}
}

// commands returns all commands that help shows, with those below jobs, token and log.
func (p *pasting) commands() (all []string) {
	for _, above := range []string{"", "jobs ", "token ", "log "} {
		out, err := p.paste("packbase __complete " + above + "'' 2>/dev/null")
		if err != nil {
			p.t.Fatalf("%v\n%s", err, out)
		}
		for line := range strings.Lines(out) {
			if name, _, ok := strings.Cut(line, "\t"); ok && name != "help" {
				all = append(all, above+name)
			}
		}
	}
	return all
}

// examples brings what the examples name.
func (p *pasting) examples() {
	p.t.Helper()
	hello := p.up.Repo("hello")
	for _, tag := range []string{"v0.1.0", "v1.0.0"} {
		hello.Tag(tag, hello.Commit(p.z.Package("hello", tag[1:], tag)))
	}
	p.must("packbase fetch --wait https://github.com/hello")
	for _, name := range []string{"clap", "zig-clap", "owner.repo"} {
		p.must("packbase fetch --wait --name " + name + " https://github.com/Hejsil/zig-clap")
	}
	zls := p.z.Project("zls", "clap")
	p.write(filepath.Join(zls, "build.zig.zon"), p.depending("zls"))
	p.write(filepath.Join(p.project, "build.zig.zon"), p.depending("app"))
	key, err := os.ReadFile(filepath.Join(p.s.Root, "log.key"))
	if err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.project, "data", "log.key"), key, 0o600); err != nil {
		p.t.Fatal(err)
	}
	p.must("mkdir -p ~/src ~/zig-0.15.2 && ln -s " + zls + " ~/src/zls && ln -s ~/bin/zig ~/zig-0.15.2/zig && packbase capture --wait ~/src/zls && packbase capture --wait")
	p.must("curl -sf https://packbase.example.org/log/policy > packbase.policy")
}

// depending returns the manifest of a project that names upstream, not us.
func (p *pasting) depending(name string) string {
	p.t.Helper()
	rel := p.s.Info("zig-clap").Release(p.t, "0.10.0")
	uses := fmt.Sprintf(".dependencies = .{ .clap = .{ .url = \"git+%s/Hejsil/zig-clap#%s\", .hash = %q } }", p.up.URL, rel.Commit, p.z.Hash(rel))
	return strings.Replace(p.z.Manifest(name, "0.0.0"), ".dependencies = .{}", uses, 1)
}

// set puts what is here in the place of what an example has as an example.
func (p *pasting) set(line string) string {
	job := p.s.Ask(p.up.URL + "/hello")
	_, port, _ := strings.Cut(strings.TrimPrefix(p.s.URL, "http://"), ":")
	return strings.NewReplacer("c8051a01", job[len(job)-8:], "PACKBASE_PORT=8081", "PACKBASE_PORT="+port).Replace(line)
}

func startOf(line string, starts map[string]string) string {
	for start := range starts {
		if strings.HasPrefix(line, start) {
			return start
		}
	}
	return ""
}

// A pasting is a shell in the folder of a project, beside a packbase and an upstream that stands for all.
type pasting struct {
	t       *testing.T
	s       *harness.Server
	up      *harness.Upstream
	z       *harness.Zig
	home    string
	project string
	hosts   *strings.Replacer
}

func newPasting(t *testing.T) *pasting {
	zigs := harness.Zigs(t)
	at := max(0, slices.IndexFunc(zigs, func(z *harness.Zig) bool { return strings.HasPrefix(z.Version, "0.15.") }))
	p := &pasting{t: t, s: harness.Start(t), up: harness.NewUpstream(t), z: zigs[at], home: t.TempDir()}
	repo := p.up.Repo("Hejsil/zig-clap")
	for _, tag := range []string{"0.9.0", "0.10.0", "0.11.0"} {
		repo.Tag(tag, repo.Commit(p.z.Package("clap", tag, tag)))
	}
	p.project = p.z.Project("app", "clap")
	p.write(filepath.Join(p.project, "data", "token"), p.s.Token)
	p.write(filepath.Join(p.home, ".packbase-token"), p.s.Token)
	bin := filepath.Join(p.home, "bin")
	p.write(filepath.Join(bin, "zig"), "#!/bin/sh\nexec "+p.z.Path+" \"$@\"\n")
	if err := os.Chmod(filepath.Join(bin, "zig"), 0o755); err != nil {
		t.Fatal(err)
	}
	host := strings.TrimPrefix(p.s.URL, "http://")
	p.hosts = strings.NewReplacer("https://github.com/", p.up.URL+"/", "http://127.0.0.1:8080", p.s.URL, "http://packbase.internal:8080", p.s.URL,
		"https://packbase.example.org", p.s.URL, "https://packbase.example", p.s.URL, "127.0.0.1:8080", host, "bin/packbase", "packbase")
	return p
}

func (p *pasting) write(file, text string) {
	p.t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		p.t.Fatal(err)
	}
}

// prepare brings what the text around a block says is there.
func (p *pasting) prepare(block string) {
	p.t.Helper()
	p.z.Forget(p.project)
	switch {
	case strings.HasPrefix(block, "packbase capture"):
		p.write(filepath.Join(p.project, "build.zig.zon"), p.depending("app"))
	case strings.HasPrefix(block, "git -c attr.tree"): // in a bare clone of upstream's
		p.must("rm -rf zig-clap .git && git clone -q --bare https://github.com/Hejsil/zig-clap .git")
	case strings.HasPrefix(block, "packbase trust --offline"):
		p.must("packbase bundle -o tree.tar && curl -sf https://packbase.example.org/log/policy > packbase.policy")
	case strings.Contains(block, "git clone"):
		p.must("rm -rf zig-clap")
	}
}

func (p *pasting) must(script string) {
	p.t.Helper()
	if out, err := p.paste(script); err != nil {
		p.t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// paste runs lines in a shell that stops at the first that fails, and returns what they print.
func (p *pasting) paste(script string) (string, error) {
	ctx, cancel := context.WithTimeout(p.t.Context(), harness.Slack(2*time.Minute))
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", p.hosts.Replace(script))
	cmd.Dir = p.project
	cmd.Env = []string{"PATH=" + filepath.Join(p.home, "bin") + ":" + filepath.Dir(harness.Binary(p.t)) + ":" + os.Getenv("PATH"), "HOME=" + p.home,
		"PACKBASE_URL=" + p.s.URL, "ZIG_GLOBAL_CACHE_DIR=" + p.z.Cache, "GIT_CONFIG_NOSYSTEM=1", "TMPDIR=" + p.t.TempDir()}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}
