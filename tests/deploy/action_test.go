package deploy_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/francescobianco/packbase/tests/harness"
)

// The steps of the action for GitHub and Forgejo, as their runners take them,
// let a project build whose upstream is dead.
func TestAction(t *testing.T) {
	t.Parallel()
	zigs := harness.Zigs(t)
	z := zigs[len(zigs)-1].For(t)
	up, s := harness.NewUpstream(t), harness.Start(t)
	repo := up.Repo("owner/b")
	dir := z.Project("project", "b")
	url := repo.GitURL(repo.Commit(z.Package("b", "1.0.0", "b")))
	if _, err := z.Run(dir, "fetch", "--save", url); err != nil {
		t.Fatal(err)
	}
	env := append(s.Env, "PACKBASE_URL="+s.URL)
	if _, stderr, err := harness.Run(t, env, "capture", "--wait", dir); err != nil {
		t.Fatalf("%v: %s", err, stderr)
	}
	up.Stop()
	z.Forget(dir)

	r := newRunner(t, z, map[string]string{"url": s.URL, "project": dir})
	r.run()
	if _, err := z.Run(dir, "build"); err != nil {
		t.Error(err)
	}
	for file, want := range map[string]string{"path": filepath.Join(r.temp, "packbase"), "env": "PACKBASE_URL=" + s.URL} {
		if got, err := os.ReadFile(filepath.Join(r.temp, file)); err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("later steps get the %s %q, %v; want %q", file, got, err, want)
		}
	}
}

// An action is what deploy/actions/setup/action.yml says.
type action struct {
	Inputs map[string]struct{ Default string }
	Runs   struct {
		Using string
		Steps []struct {
			If, Shell, Run string
			Env            map[string]string
		}
	}
}

// A runner takes the steps of a composite action, as those of GitHub and
// Forgejo do.
type runner struct {
	t      *testing.T
	action action
	inputs map[string]string
	temp   string
	env    []string
}

func newRunner(t *testing.T, z *harness.Zig, with map[string]string) *runner {
	t.Helper()
	folder, err := filepath.Abs("../../deploy/actions/setup")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(folder, "action.yml"))
	if err != nil {
		t.Fatal(err)
	}
	r := &runner{t: t, inputs: map[string]string{}, temp: t.TempDir()}
	if err := yaml.Unmarshal(raw, &r.action); err != nil || r.action.Runs.Using != "composite" || len(r.action.Runs.Steps) < 2 {
		t.Fatalf("the action: %+v, %v", r.action, err)
	}
	for name, input := range r.action.Inputs {
		r.inputs[name] = input.Default
	}
	for name, value := range with {
		if _, ok := r.inputs[name]; !ok {
			t.Fatalf("the action has no input %s", name)
		}
		r.inputs[name] = value
	}
	r.env = append(os.Environ(), "GITHUB_ACTION_PATH="+folder, "RUNNER_TEMP="+r.temp, "GITHUB_PATH="+filepath.Join(r.temp, "path"),
		"GITHUB_ENV="+filepath.Join(r.temp, "env"), "ZIG_GLOBAL_CACHE_DIR="+z.Cache, "PATH="+filepath.Dir(z.Path)+":"+os.Getenv("PATH"))
	return r
}

func (r *runner) run() {
	r.t.Helper()
	for i, step := range r.action.Runs.Steps {
		if step.If != "" && step.If != "inputs.warm == 'true'" {
			r.t.Fatalf("step %d: %q is not understood here", i, step.If)
		}
		cmd := exec.CommandContext(r.t.Context(), step.Shell, "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step.Run)
		cmd.Env = r.env
		for name, value := range step.Env {
			cmd.Env = append(cmd.Env, name+"="+r.expand(value))
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			r.t.Fatalf("step %d: %v: %s", i, err, out)
		}
	}
}

// expand fills in ${{ inputs.NAME }}.
func (r *runner) expand(value string) string {
	for name, input := range r.inputs {
		value = strings.ReplaceAll(value, fmt.Sprintf("${{ inputs.%s }}", name), input)
	}
	if strings.Contains(value, "${{") {
		r.t.Fatalf("%q is not understood here", value)
	}
	return value
}
