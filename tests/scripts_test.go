package tests_test

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/tests/harness"
)

// Each of scripts/*.txtar tells one story to a packbase of its own. Besides
// the commands of testscript there are
//
//	packbase [NAME=value...]      start packbase; sets $PACKBASE, its URL, and $TOKEN
//	upstream REPO [TAG...]        make a repository, with a small commit for each tag; it is $UPSTREAM/REPO
//	commit REPO FOLDER            commit the folder, as the whole tree; sets $COMMIT
//	git REPO ARGUMENT...          run git in the repository
//	answer git|stop|CODE|WORD     let upstream answer as it should, not at all, with a status, or as answers says
//	requests COUNT                upstream got so many requests since the last time
//	http METHOD PATH [ARGUMENT...]
//	    send a request. NAME=value goes into a JSON body, "Name: value" is a
//	    header, anything else is the body. Without an Authorization header the
//	    token is sent; with "Authorization:" none is. stdout is the body of the
//	    answer and stderr its headers
//	[!] status CODE               of the last answer
//	[!] header NAME REGEXP        of the last answer; without REGEXP: there is one
//	[!] json PATH [VALUE]         of the last answer, as in tarballs.0.tag; prints the value
//	release PACKAGE TAG           wait until the release is there
//	waitjob ID STATE              wait until the job has that state
//	save NAME                     set $NAME to what the last command printed
func TestScripts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("scripts/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("found %d scripts, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			s := &story{t: t}
			testscript.RunT(scriptT{t}, testscript.Params{
				Files:               []string{file},
				Setup:               s.setup,
				Cmds:                s.commands(),
				RequireExplicitExec: true,
				RequireUniqueNames:  true,
			})
		})
	}
}

// A scriptT runs a script within one test, and not in a subtest.
type scriptT struct{ *testing.T }

func (t scriptT) Run(_ string, f func(testscript.T)) { f(t) }
func (t scriptT) Parallel()                          {}
func (t scriptT) Verbose() bool                      { return testing.Verbose() }

// A story is what a script has.
type story struct {
	t        *testing.T
	up       *harness.Upstream
	packbase *harness.Server
	last     *harness.Answer
	requests int // that upstream had got
}

func (s *story) setup(env *testscript.Env) error {
	s.up = harness.NewUpstream(s.t)
	env.Setenv("UPSTREAM", s.up.URL)
	env.Setenv("GIT_CONFIG_NOSYSTEM", "1")
	env.Setenv("GIT_TERMINAL_PROMPT", "0")
	env.Setenv("LC_ALL", "C")
	return nil
}

func (s *story) commands() map[string]func(*testscript.TestScript, bool, []string) {
	return map[string]func(*testscript.TestScript, bool, []string){
		"packbase": s.start,
		"upstream": s.upstream,
		"commit":   s.commit,
		"git":      s.git,
		"answer":   s.answer,
		"requests": s.countRequests,
		"http":     s.http,
		"status":   s.status,
		"header":   s.header,
		"json":     s.json,
		"release":  s.release,
		"waitjob":  s.waitJob,
		"save":     save,
	}
}

// want fails the script for a wrong command.
func want(ts *testscript.TestScript, ok bool, usage string) {
	if !ok {
		ts.Fatalf("usage: %s", usage)
	}
}

func (s *story) start(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && s.packbase == nil, "packbase [NAME=value...], once")
	s.packbase = harness.Start(s.t, args...)
	ts.Setenv("PACKBASE", s.packbase.URL)
	ts.Setenv("TOKEN", s.packbase.Token)
}

func (s *story) upstream(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && len(args) > 0, "upstream REPO [TAG...]")
	repo := s.up.Repo(args[0])
	for _, tag := range args[1:] {
		repo.Release(tag)
	}
}

func (s *story) commit(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && len(args) == 2, "commit REPO FOLDER")
	files, err := folder(ts.MkAbs(args[1]))
	ts.Check(err)
	repo := s.up.Repo(args[0])
	if repo.Git("branch", "--list", "main") != "" {
		for old := range strings.Lines(repo.Git("ls-tree", "--name-only", "main")) {
			files[strings.TrimSpace(old)+"-"] = ""
		}
	}
	ts.Setenv("COMMIT", repo.Commit(files))
}

// folder reads files as a commit wants them.
func folder(dir string) (harness.Files, error) {
	files := harness.Files{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if d.Type() == fs.ModeSymlink {
			files[name+"@"], err = os.Readlink(path)
			return err
		}
		if info.Mode()&0o100 != 0 {
			name += "*"
		}
		b, err := os.ReadFile(path)
		files[name] = string(b)
		return err
	})
	return files, err
}

func (s *story) git(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && len(args) > 1, "git REPO ARGUMENT...")
	fmt.Fprintln(ts.Stdout(), s.up.Repo(args[0]).Git(args[1:]...))
}

// answers are ways in which upstream misbehaves.
func answers() map[string]http.Handler {
	return map[string]http.Handler{
		"html":    harness.Status(http.StatusOK),
		"nothing": harness.Close(),
		"hang": http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
		}),
	}
}

func (s *story) answer(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && len(args) == 1, "answer git|stop|CODE|WORD")
	if args[0] == "stop" {
		s.up.Stop()
		return
	}
	if args[0] == "git" {
		s.up.Answer(nil)
		return
	}
	if h, ok := answers()[args[0]]; ok {
		s.up.Answer(h)
		return
	}
	code, err := strconv.Atoi(args[0])
	ts.Check(err)
	s.up.Answer(harness.Status(code))
}

func (s *story) countRequests(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && len(args) == 1, "requests COUNT")
	n := s.up.Requests() - s.requests
	s.requests += n
	if strconv.Itoa(n) != args[0] {
		ts.Fatalf("upstream got %d requests, want %s", n, args[0])
	}
}

var (
	aHeader = regexp.MustCompile(`^([A-Za-z-]+):\s*(.*)$`)
	aField  = regexp.MustCompile(`^([a-z_]+)=(?s:(.*))$`)
)

func (s *story) http(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && len(args) > 1, "http METHOD PATH [ARGUMENT...]")
	var body string
	header, fields := http.Header{}, map[string]string{}
	for _, arg := range args[2:] {
		if m := aHeader.FindStringSubmatch(arg); m != nil {
			header.Set(m[1], m[2])
		} else if m := aField.FindStringSubmatch(arg); m != nil {
			fields[m[1]] = m[2]
		} else {
			body = arg
		}
	}
	if len(fields) > 0 {
		b, err := json.Marshal(fields)
		ts.Check(err)
		body = string(b)
	}
	answer, err := s.packbase.TryDo(args[0], args[1], body, header)
	ts.Check(err)
	s.last = answer
	_, err = ts.Stdout().Write(answer.Body)
	ts.Check(err)
	fmt.Fprintln(ts.Stderr(), "HTTP", answer.Status)
	ts.Check(answer.Header.Write(ts.Stderr()))
}

func (s *story) status(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, len(args) == 1 && s.last != nil, "status CODE, after http")
	if got := strconv.Itoa(s.last.Status); (got == args[0]) == neg {
		ts.Fatalf("status = %s, want %s\n%s", got, args[0], s.last.Body)
	}
}

func (s *story) header(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, (len(args) == 1 || len(args) == 2) && s.last != nil, "header NAME [REGEXP], after http")
	values := s.last.Header.Values(args[0])
	ok := len(values) > 0
	if len(args) == 2 {
		pattern, err := regexp.Compile(args[1])
		ts.Check(err)
		ok = slices.ContainsFunc(values, pattern.MatchString)
	}
	if ok == neg {
		ts.Fatalf("header %s = %q, want %q", args[0], values, args[1:])
	}
}

func (s *story) json(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, (len(args) == 1 || len(args) == 2) && s.last != nil, "json PATH [VALUE], after http")
	var body any
	if err := json.Unmarshal(s.last.Body, &body); err != nil {
		ts.Fatalf("answer is not JSON: %v\n%s", err, s.last.Body)
	}
	value, ok := at(body, args[0])
	_, err := io.WriteString(ts.Stdout(), value+"\n")
	ts.Check(err)
	if ok && len(args) == 2 {
		ok = value == args[1]
	}
	if ok == neg {
		ts.Fatalf("%s = %q, want %q\n%s", args[0], value, args[1:], s.last.Body)
	}
}

// at follows a path of field names and positions. "len" is the length of a list.
func at(v any, path string) (value string, ok bool) {
	for name := range strings.SplitSeq(path, ".") {
		switch in := v.(type) {
		case map[string]any:
			v, ok = in[name]
		case []any:
			n, err := strconv.Atoi(name)
			if ok = err == nil && n < len(in); ok {
				v = in[n]
			} else if ok = name == "len"; ok {
				v = len(in)
			}
		default:
			ok = false
		}
		if !ok {
			return "", false
		}
	}
	if text, isText := v.(string); isText {
		return text, true
	}
	b, err := json.Marshal(v)
	return string(b), err == nil
}

func (s *story) release(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && len(args) == 2, "release PACKAGE TAG")
	harness.Eventually(s.t, strings.Join(args, " ")+" is there", func() bool {
		a := s.packbase.Do(http.MethodGet, "/api/info/"+args[0], "", nil)
		var info harness.Info
		a.Into(s.t, &info)
		return slices.ContainsFunc(info.Tarballs, func(r wire.Tarball) bool { return r.Tag == args[1] })
	})
}

func (s *story) waitJob(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && len(args) == 2, "waitjob ID STATE")
	harness.Eventually(s.t, "job is "+args[1], func() bool {
		job := s.packbase.Job(args[0])
		if !job.Open() && job.State != args[1] {
			ts.Fatalf("job is %s, want %s: %+v", job.State, args[1], job.Error)
		}
		return job.State == args[1]
	})
}

func save(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && len(args) == 1, "save NAME")
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}
