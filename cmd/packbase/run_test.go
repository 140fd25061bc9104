package main

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/francescobianco/packbase/cmd/packbase/term"
)

// said runs packbase with an environment, and returns what it said and its exit code.
func said(t *testing.T, env map[string]string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	err := run(t.Context(), args, func(name string) string { return env[name] }, strings.NewReader("in"), &out, &errs)
	if err != nil {
		code = exitCode(err)
		errs.WriteString(err.Error())
	}
	return out.String(), errs.String(), code
}

// The command has the terminal, its own flags and a proxy, and packbase has its exit code.
func TestRunCommand(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Packbase-Reason", "no "+r.URL.Path)
		http.Error(w, "no", http.StatusNotFound)
	}))
	t.Cleanup(srv.Close)
	env := map[string]string{"PACKBASE_URL": srv.URL}
	for _, tt := range []struct {
		args           []string
		stdout, stderr string
		code           int
	}{
		{[]string{"run", "--", "sh", "-c", `cat; echo " $1 $http_proxy $https_proxy"`, "sh", "--release=fast"}, "in --release=fast http://packbase:", "", 0},
		{[]string{"run", "sh", "-c", "exit 7"}, "", "exit code 7", 7},
		{[]string{"run", "sh", "-c", "kill -9 $$"}, "", "exit code 137", 137},
		{[]string{"run", "no-such-command"}, "", "not found", exitFailed},
		{[]string{"run"}, "", "requires at least 1 arg", exitUsage},
		{[]string{"run", "--only-zig", "--", "sh", "-c", `curl -s http://files.example.org/x; exit 3`}, "no", "not to be had from " + srv.URL + ":\n  no /u/http/files.example.org/x\n", 3},
	} {
		stdout, stderr, code := said(t, env, tt.args...)
		if !strings.HasPrefix(stdout, tt.stdout) || !strings.Contains(stderr, tt.stderr) || code != tt.code {
			t.Errorf("%q: %q, %q, exit code %d, want %q, %q, %d", tt.args, stdout, stderr, code, tt.stdout, tt.stderr, tt.code)
		}
	}
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("from there")) }))
	t.Cleanup(other.Close)
	if stdout, stderr, code := said(t, env, "run", "curl", "-s", "--noproxy", "", other.URL); stdout != "from there" {
		t.Errorf("another program's request: %q, %q, %d", stdout, stderr, code)
	}
}

// A mirror that is watched sends nobody elsewhere: what it names may be a place that only this machine reaches.
func TestWatchGoesStraight(t *testing.T) {
	t.Parallel()
	asked := false
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	t.Cleanup(inside.Close)
	mirror := httptest.NewServer(http.RedirectHandler(inside.URL, http.StatusFound))
	t.Cleanup(mirror.Close)
	_, stderr, code := said(t, nil, "watch", "--url", mirror.URL, "https://github.com/me/*")
	if asked || code != exitFailed || !strings.Contains(stderr, "302") {
		t.Errorf("asked there: %v; %q, exit code %d, want it to be told of the redirect", asked, stderr, code)
	}
}

func TestRunIsInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	started := &starting{seen: cancel}
	var errs bytes.Buffer
	err := run(ctx, []string{"run", "sh", "-c", `trap 'echo stopped; exit 0' TERM; echo started; while :; do sleep 0.1; done`}, func(string) string { return "" }, strings.NewReader(""), started, &errs)
	if code := exitCode(err); code != exitInterrupted || !strings.Contains(started.text.String(), "stopped") {
		t.Errorf("%v, exit code %d, %q: want the command to end as it likes", err, code, started.text.String())
	}
}

// starting calls seen when something is written.
type starting struct {
	text bytes.Buffer
	seen func()
}

func (s *starting) Write(b []byte) (int, error) {
	defer s.seen()
	return s.text.Write(b)
}

func TestEnvCommand(t *testing.T) {
	t.Parallel()
	const url = "http://mirror.example.org"
	for _, tt := range []struct {
		env  map[string]string
		args string
		want string
		code int
	}{
		{map[string]string{"PACKBASE_URL": url}, "", "export http_proxy=http://mirror.example.org:80\nexport https_proxy=http://mirror.example.org:80\n", 0},
		{map[string]string{"SHELL": "/usr/bin/fish"}, "--url http://[::1]:8080", "set -gx http_proxy http://[::1]:8080\nset -gx https_proxy http://[::1]:8080\n", 0},
		{nil, "--for powershell", "$env:http_proxy = 'http://127.0.0.1:8080'\n$env:https_proxy = 'http://127.0.0.1:8080'\n", 0},
		{nil, "--for github --with-token --url " + url, "- run: zig build\n  env:\n    http_proxy: http://${{ secrets.PACKBASE_TOKEN }}@mirror.example.org:80\n    https_proxy: http://${{ secrets.PACKBASE_TOKEN }}@mirror.example.org:80\n", 0},
		{nil, "--for forgejo --url " + url, "- run: zig build\n  env:\n    http_proxy: http://mirror.example.org:80\n    https_proxy: http://mirror.example.org:80\n", 0},
		{nil, "--with-token --token pb_a-token-1 --url " + url, "export http_proxy=http://pb_a-token-1@mirror.example.org:80\nexport https_proxy=http://pb_a-token-1@mirror.example.org:80\n", 0},
		{nil, "--with-token --token a/b --url " + url, "characters that Zig cannot send", exitUsage},
		{nil, "--with-token --url " + url, "there is no token", exitUsage},
		{nil, "--url https://mirror.example.org", "`packbase run -- zig build` can", exitUsage},
		{nil, "--url http://mirror.example.org/base", "no path", exitUsage},
		{nil, "--for tcsh", "none of sh, fish", exitUsage},
	} {
		stdout, stderr, code := said(t, tt.env, slices.Concat([]string{"env"}, strings.Fields(tt.args))...)
		if !strings.Contains(stdout+stderr, tt.want) || code != tt.code {
			t.Errorf("env %s: %q, %q, exit code %d, want %q, %d", tt.args, stdout, stderr, code, tt.want, tt.code)
		}
	}
}

// What /api/status calls release tells builds between releases apart.
func TestBuild(t *testing.T) {
	wasRelease, wasCommit := release, commit
	t.Cleanup(func() { release, commit = wasRelease, wasCommit })
	for _, tt := range []struct{ release, want string }{{"1.2.0", "1.2.0"}, {"1.3.0-dev", "1.3.0-dev+0123456789ab"}} {
		release, commit = tt.release, "0123456789ab"
		if got := build(); got != tt.want {
			t.Errorf("release %s of commit %s is %q, want %q", tt.release, commit, got, tt.want)
		}
	}
}

// Each command has its manual page.
func TestManPages(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "man1")
	if _, stderr, code := said(t, nil, "man", dir); code != 0 {
		t.Fatalf("man: exit code %d: %s", code, stderr)
	}
	var check func(*cobra.Command)
	check = func(cmd *cobra.Command) {
		file := strings.ReplaceAll(cmd.CommandPath(), " ", "-") + ".1"
		page, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil || !strings.Contains(string(page), ".TH") || !strings.Contains(string(page), cmd.Short) {
			t.Errorf("%s: %v, %.200q", file, err, page)
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if text := strings.NewReplacer("\\[la]", "<", "\\[ra]", ">", "\\", "").Replace(string(page)); !f.Hidden && !strings.Contains(text, f.Usage) {
				t.Errorf("%s has not the whole of what --%s is for: %q", file, f.Name, f.Usage)
			}
		})
		for _, below := range cmd.Commands() {
			if below.IsAvailableCommand() {
				check(below)
			}
		}
	}
	check(commands(&term.Program{Getenv: func(string) string { return "" }}))
	if _, stderr, code := said(t, nil, "man", filepath.Join(dir, "packbase.1", "x")); code != exitFailed || !strings.Contains(stderr, "not a directory") {
		t.Errorf("man into a file: exit code %d, %q", code, stderr)
	}
}

// A file has what flags and variables do not say, and what is wrong with it is told before anything begins.
func TestConfigFile(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		file string
		args string
		env  map[string]string
		want string
		code int
	}{
		{"port = 8081\npull = [\"a.example\", \"b.example\"]\nno-hello = true\nlease = \"20s\"", "", nil, "PACKBASE_PORT 8081 packbase.toml:port", 0},
		{"pull = [\"a.example\", \"b.example\"]", "", nil, "PACKBASE_PULL a.example,b.example packbase.toml:pull", 0},
		{"no-hello = true", "", nil, "PACKBASE_NO_HELLO true packbase.toml:no-hello", 0},
		{"port = 8081", "", map[string]string{"PACKBASE_PORT": "8082"}, "PACKBASE_PORT 8082 PACKBASE_PORT", 0},
		{"port = 8081", "--port 8083", map[string]string{"PACKBASE_PORT": "8082"}, "PACKBASE_PORT 8083 --port", 0},
		{"token = \"a-token-of-some-length\"", "", nil, "PACKBASE_TOKEN (set, not shown) packbase.toml:token", 0},
		{"", "", nil, "PACKBASE_PORT 8080 default", 0},
		{"prot = 8081", "", nil, `no setting "prot"`, exitUsage},
		{"port = 8081\nport = 8082", "", nil, "line 2", exitUsage},
		{"port = true", "", nil, "packbase.toml: port: ", exitUsage},
		{"port = 1.5", "", nil, "port: want a text, a number", exitUsage},
		{"[log]\nform = \"json\"", "", nil, "log: want a text, a number", exitUsage},
		{strings.Repeat("#", 64<<10+1), "", nil, "more than 65536 bytes", exitUsage},
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, "packbase.toml")
		if err := os.WriteFile(file, []byte(tt.file), 0o600); err != nil {
			t.Fatal(err)
		}
		env := map[string]string{"PACKBASE_CONFIG": file}
		for name, text := range tt.env {
			env[name] = text
		}
		for _, by := range []string{"variable", "flag"} {
			args := append([]string{"config"}, strings.Fields(tt.args)...)
			if by == "flag" {
				args, env["PACKBASE_CONFIG"] = append(args, "--config", file), "/not/this/one"
			}
			stdout, stderr, code := said(t, env, args...)
			got := strings.ReplaceAll(strings.ReplaceAll(stdout+stderr, dir+"/", ""), "toml: ", "toml:")
			if want := strings.ReplaceAll(tt.want, "toml: ", "toml:"); code != tt.code || !strings.Contains(spaces.ReplaceAllString(got, " "), want) {
				t.Errorf("%q, by %s, %s, %v: exit code %d, want %d and %q in\n%s", tt.file, by, tt.args, tt.env, code, tt.code, tt.want, got)
			}
		}
	}
	if _, stderr, code := said(t, nil, "config", "--config", "/not/there.toml"); code != exitUsage || !strings.Contains(stderr, "/not/there.toml") {
		t.Errorf("a file that is not there: exit code %d, %s", code, stderr)
	}
}

// A pipe in the place of a file is refused, wherever a file may be named: waiting for it would last for ever.
func TestPipesAreNoFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pipe := filepath.Join(dir, "token")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{
		"config --config PIPE", "config PACKBASE_CONFIG=PIPE", "config PACKBASE_TOKEN_FILE=PIPE", "config --log-witnesses PIPE",
		"verify PIPE", "verify --evidence PIPE", "warm --from PIPE", "trust --policy PIPE --offline http://127.0.0.1:1", "list --token-file PIPE",
		"list --url http://127.0.0.1:1 PACKBASE_ROOT=DIR", "log key PACKBASE_LOG_KEY_FILE=PIPE PACKBASE_DATABASE_URL=postgres://127.0.0.1:1/x",
		"log rotate PACKBASE_LOG_KEY_FILE=PIPE PACKBASE_DATABASE_URL=postgres://127.0.0.1:1/x",
	} {
		env := map[string]string{"HOME": dir}
		var rest []string
		for _, arg := range strings.Fields(strings.NewReplacer("PIPE", pipe, "DIR", dir).Replace(args)) {
			if name, value, ok := strings.Cut(arg, "="); ok {
				env[name] = value
			} else {
				rest = append(rest, arg)
			}
		}
		if _, stderr, code := said(t, env, rest...); code == 0 || !strings.Contains(stderr, "no regular file") {
			t.Errorf("%s: exit code %d, %s", args, code, stderr)
		}
	}
}

var spaces = regexp.MustCompile(` +`)
