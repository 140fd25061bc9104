package tests

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/francescobianco/packbase/tests/harness"
)

// On a terminal `packbase up` says what to do next; its log is a file, unless the settings say how to log.
func TestUpOnATerminal(t *testing.T) {
	t.Parallel()
	script, err := exec.LookPath("script") // runs a command on a terminal of its own
	if err != nil {
		t.Skip(err)
	}
	s := harness.Up(t)
	s.Stop()
	if strings.Contains(s.API.Log(), "listening on http") {
		t.Error("there is a line for a terminal where none is")
	}
	for _, tt := range []struct {
		env   string
		lines bool // of the log are shown
	}{{"", false}, {"PACKBASE_LOG=text,info", true}} {
		file := filepath.Join(s.Root, "packbase.log")
		var out output
		cmd := exec.CommandContext(t.Context(), script, "-qefc", harness.Binary(t)+" up", "/dev/null")
		cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "SHELL=/bin/sh", tt.env}, s.Env...)
		cmd.Stdout, cmd.Stderr = &out, &out
		keys, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		harness.Eventually(t, "it is ready", func() bool { return strings.Contains(out.String(), "packbase is ready") })
		s.Get("/api/list")
		harness.Eventually(t, "the request is logged", func() bool {
			logged, _ := os.ReadFile(file)
			return strings.Contains(string(logged), "/api/list") != tt.lines && strings.Contains(out.String(), "/api/list") == tt.lines
		})
		harness.Eventually(t, "the last line says how it is", func() bool {
			return strings.Contains(out.String(), "\rlistening on "+s.URL+" · 1 package, 1 release") != tt.lines
		})
		if _, err := keys.Write([]byte{3}); err != nil { // Ctrl-C
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 130 {
			t.Errorf("Ctrl-C: %v, want exit code 130", err)
		}
		if said := out.String(); strings.Contains(said, "level=INFO") != tt.lines || strings.Contains(said, file) == tt.lines {
			t.Errorf("with %q it says\n%s", tt.env, said)
		}
		if err := os.RemoveAll(file); err != nil {
			t.Fatal(err)
		}
	}
}

// A bash without the package bash-completion completes commands, and values of flags.
func TestBashCompletes(t *testing.T) {
	t.Parallel()
	script, err := exec.LookPath("script")
	if err != nil {
		t.Skip(err)
	}
	var out output
	cmd := exec.CommandContext(t.Context(), script, "-qefc", "bash --norc --noprofile -i", "/dev/null")
	cmd.Env = []string{"PATH=" + filepath.Dir(harness.Binary(t)) + ":" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "TERM=dumb", "PS1=ready> ", "INPUTRC=/dev/null"}
	cmd.Stdout, cmd.Stderr = &out, &out
	keys, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	typed := func(line, want string) {
		t.Helper()
		if _, err := keys.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
		harness.Eventually(t, want, func() bool { return strings.Contains(out.String(), want) })
	}
	typed("source <(packbase completion bash); complete -p packbase\n", "-F __start_packbase packbase")
	typed("packbase versi\t\n", "packbase version ")
	typed("packbase jobs --state=canc\t", "--state=cancelled")
	typed("\x15packbase jobs --state runn\t", "--state running")
	typed("\x15exit\n", "exit")
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// output may be read while it is written.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
