package smarthttp

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// PACKBASE_TEST_ZIGS names zig executables, separated as in PATH.
func TestZigFetch(t *testing.T) {
	zigs := filepath.SplitList(os.Getenv("PACKBASE_TEST_ZIGS"))
	if len(zigs) == 0 {
		t.Skip("PACKBASE_TEST_ZIGS is not set")
	}
	u := newUpstream(t)
	u.commit("v5")
	m := newMirror(t, u)
	url := "git+" + serve(t, m, Options{}) + "/pkg"
	for _, zig := range zigs {
		t.Run(filepath.Base(filepath.Dir(filepath.Dir(zig))), func(t *testing.T) {
			project := t.TempDir()
			if err := os.WriteFile(filepath.Join(project, "build.zig"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			fetch := func(what string) (string, error) {
				cmd := exec.CommandContext(t.Context(), zig, "fetch", what)
				// The cache is the user's: 0.17 compiles its fetcher into it, for minutes.
				cmd.Dir = project // 0.16 wants one
				out, err := cmd.CombinedOutput()
				return strings.TrimSpace(string(out)), err
			}
			for ref, name := range map[string]string{
				"": "v5", "#v2": "v2", "#light": "light", "#nested": "nested", "#main": "v5", "#refs/tags/v1": "v1",
				"#" + u.git("rev-parse", "v3^{}"):                  "v3",
				"#" + strings.ToUpper(u.git("rev-parse", "v1^{}")): "v1",
			} {
				dir := t.TempDir()
				git(t, u.dir, "worktree", "add", "-q", "--detach", dir, name)
				if err := os.Remove(filepath.Join(dir, ".git")); err != nil {
					t.Fatal(err)
				}
				want, err := fetch(dir)
				if err != nil {
					t.Fatalf("zig fetch of a folder: %v\n%s", err, want)
				}
				got, err := fetch(url + ref)
				if strings.Contains(got, "missing an explicit ref") && strings.Contains(got, u.git("rev-parse", name+"^{}")) {
					continue // all that 0.12 does without a fragment
				}
				if err != nil || got != want {
					t.Errorf("zig fetch %s = %q, %v, want %s", ref, got, err, want)
				}
			}
			if out, err := fetch(url + "#nope"); err == nil || !strings.Contains(out, "ref not found") {
				t.Errorf("zig fetch of an unknown tag: %q, %v", out, err)
			}
		})
	}
}
