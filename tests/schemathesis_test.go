package tests_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/tests/harness"
	"github.com/francescobianco/packbase/tests/harness/archives"
)

// schemathesis returns the command of Schemathesis, as testdata pins it.
func schemathesis(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	pinned, err := filepath.Abs(filepath.Join("testdata", "schemathesis"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	t.Cleanup(cancel)
	python := func(args ...string) *exec.Cmd {
		return exec.CommandContext(ctx, "python3", append([]string{"-m"}, args...)...)
	}
	if err := python("pip", "--version").Run(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("there is no pip to bring Schemathesis")
		}
		t.Skip("there is no pip to bring Schemathesis")
	}
	libraries := t.TempDir()
	pip := python("pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:",
		"--target", libraries, "-r", filepath.Join(pinned, "requirements.txt"))
	if out, err := pip.CombinedOutput(); err != nil {
		t.Fatalf("pip install: %v\n%s", err, out)
	}
	cmd := python(append([]string{"schemathesis.cli", "--config-file", filepath.Join(pinned, "schemathesis.toml")}, args...)...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "PYTHONPATH="+libraries+":"+pinned, "PYTHONDONTWRITEBYTECODE=1", "NO_COLOR=1")
	return cmd
}

// TestSchemathesis has Schemathesis call every operation of the OpenAPI document: with its examples, and with what is at
// the borders of its schemas and just beyond them. All is answered as the document says.
func TestSchemathesis(t *testing.T) {
	t.Parallel()
	up := harness.NewUpstream(t)
	args := up.Repo("args")
	args.Release("v0.1.0")
	args.Release("v0.2.0")
	up.Repo("hello").Release("v0.1.0") // which the document's examples have
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/gzip")
		w.Write(archives.TarGz(t, harness.Files{"a.txt": "an archive"}))
	}))
	defer web.Close()
	s := harness.Start(t, "PACKBASE_PULL="+strings.TrimPrefix(web.URL, "http://"))
	s.Fetch(up.URL + "/hello")
	ended := s.Fetch(up.URL + "/args").JobID
	s.Fetch(args.GitURL("main"))
	hash := hashOf(t, s, web.URL+"/a.tar.gz")
	rel := s.Info("args").Release(t, "v0.1.0")
	if a := s.Do(http.MethodPost, "/api/trees?wait=60", `{"name":"app","release":"args@v0.1.0"}`, nil); a.Status != http.StatusOK {
		t.Fatalf("capture: %d %s", a.Status, a.Body)
	}
	failed := s.Ask(up.URL + "/nothing")
	s.WaitJob(failed)
	s.Worker.Stop() // of what the examples have mirrored, nothing is

	cmd := schemathesis(t, "run", s.URL+"/api/openapi.yaml", "--url", s.URL, "--phases", "examples,coverage")
	cmd.Env = append(cmd.Env, "TOKEN="+s.Token, "DIGEST="+rel.SHA256, "COMMIT="+rel.Commit, "HASH="+hash, "ARCHIVE="+web.URL+"/a.tar.gz", "ENDED="+ended, "FAILED="+failed)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
