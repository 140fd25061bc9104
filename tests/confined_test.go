package tests_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/tests/harness"
)

// Both children that upstream's bytes reach are confined when the first of
// these comes.
func TestChildrenAreConfined(t *testing.T) {
	t.Parallel()
	asked, answer := make(chan struct{}), make(chan struct{})
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(asked)
		<-answer
		http.Error(w, "gone", http.StatusGone)
	}))
	defer upstream.Close()
	s := harness.Start(t, "PACKBASE_JOB_ATTEMPTS=1")
	s.Ask(upstream.URL + "/owner/hello")
	<-asked
	defer close(answer)
	children := map[string]int{}
	harness.Eventually(t, "two children are there", func() bool {
		children = childrenOf(t, s.Worker)
		return children["ingest"] != 0 && children["download"] != 0
	})
	for name, pid := range children {
		harness.Eventually(t, name+" is confined", func() bool {
			status := readProc(t, pid, "status")
			return strings.Contains(status, "Seccomp:\t2") && strings.Contains(status, "NoNewPrivs:\t1")
		})
		status := readProc(t, pid, "status")
		if !strings.Contains(status, "CapEff:\t0000000000000000") {
			t.Errorf("%s has capabilities:\n%s", name, status)
		}
		if limits := strings.Join(strings.Fields(readProc(t, pid, "limits")), " "); name == "download" && !strings.Contains(limits, "Max file size 0 0 bytes") {
			t.Errorf("%s, which writes no file, may: %s", name, limits)
		}
		if os.Geteuid() != 0 {
			continue
		}
		if strings.Contains(status, "Uid:\t0\t") {
			t.Errorf("%s is root", name)
		}
		if env := readProc(t, pid, "environ"); env != "GOTRACEBACK=single\x00" {
			t.Errorf("environment of %s is %q, want none", name, env)
		}
		root, err := os.Readlink(fmt.Sprintf("/proc/%d/root", pid))
		if err != nil || !strings.HasPrefix(root, filepath.Join(s.Root, "staging")+"/") {
			t.Errorf("root folder of %s is %q, %v, want one below staging", name, root, err)
		}
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		if err != nil || len(files) == 0 {
			t.Errorf("files of %s: %v, %v", name, files, err)
		}
		for _, file := range files {
			to, _ := os.Readlink(file)
			if strings.HasPrefix(to, "/") && !strings.HasPrefix(to, root) && !strings.HasPrefix(to, "/sys/fs/cgroup/") && to != "/dev/null" {
				t.Errorf("%s has %s open", name, to)
			}
		}
	}
}

// childrenOf returns the children of a process by their first argument.
func childrenOf(t *testing.T, p *harness.Process) map[string]int {
	t.Helper()
	found := map[string]int{}
	for _, pid := range p.Children() {
		if args := strings.Split(readProc(t, pid, "cmdline"), "\x00"); len(args) > 1 {
			found[args[1]] = pid
		}
	}
	return found
}

func readProc(t *testing.T, pid int, name string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
