// Command upstream is a small forge for smoke.sh: the repositories p0 to p15,
// with the tags v1.0.0 and v1.1.0, served by git-http-backend(1) on port 8000.
// It takes DELAY for each fetch, so that there is time to kill workers.
package main

import (
	"fmt"
	"hash/crc32"
	"log"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	delay, err := time.ParseDuration(os.Getenv("DELAY"))
	if err != nil {
		log.Fatal(err)
	}
	root, err := os.MkdirTemp("", "upstream-")
	if err != nil {
		log.Fatal(err)
	}
	for i := range 16 {
		if err := makeRepository(root, fmt.Sprintf("p%d", i)); err != nil {
			log.Fatal(err)
		}
	}
	path, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		log.Fatal(err)
	}
	backend := filepath.Join(strings.TrimSpace(string(path)), "git-http-backend")
	log.Fatal(http.ListenAndServe(":8000", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			time.Sleep(delay)
		}
		h := cgi.Handler{Path: backend, Env: []string{
			"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_PROTOCOL=" + r.Header.Get("Git-Protocol"),
		}}
		h.ServeHTTP(w, r)
	})))
}

// makeRepository makes a bare repository of a Zig package with two releases.
func makeRepository(root, name string) error {
	dir := filepath.Join(root, name)
	if out, err := exec.Command("git", "init", "-q", "--bare", "--initial-branch=main", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("init %s: %w: %s", name, err, out)
	}
	var in strings.Builder
	for i, version := range []string{"1.0.0", "1.1.0"} {
		fmt.Fprintf(&in, "commit refs/heads/main\ncommitter A U Thor <author@example.com> %d +0000\ndata 0\n", 1_700_000_000+i)
		for file, content := range map[string]string{
			"build.zig": "pub fn build(_: *@import(\"std\").Build) void {}\n",
			"build.zig.zon": fmt.Sprintf(".{ .name = .%s, .version = %q, .fingerprint = %#x, .paths = .{\"\"} }\n",
				name, version, uint64(crc32.ChecksumIEEE([]byte(name)))<<32|1),
			"root.zig": fmt.Sprintf("pub const version = %q;\n", version),
		} {
			fmt.Fprintf(&in, "M 100644 inline %s\ndata %d\n%s\n", file, len(content), content)
		}
		fmt.Fprintf(&in, "reset refs/tags/v%s\nfrom refs/heads/main\n\n", version)
	}
	cmd := exec.Command("git", "-C", dir, "fast-import", "--quiet")
	cmd.Stdin = strings.NewReader(in.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("fill %s: %w: %s", name, err, out)
	}
	return nil
}
