package tests

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/francescobianco/packbase"

// imports says which of our packages each part may import, tests included. The
// longest path that a package lies below counts; everything may import what
// lies below its own path. A package without a rule needs one.
var imports = []struct {
	path string
	may  []string
}{
	{"cmd", []string{"api", "worker", "storage", "migrations"}},
	{"cmd/packbase/client", []string{"cmd/packbase/term", "cmd/packbase/localproxy", "cmd/packbase/project", "api/route", "api/wire", "storage"}},
	{"cmd/packbase/term", nil},
	{"api", []string{"storage"}},
	{"api/answer", []string{"api/wire", "storage"}},
	{"api/browse", []string{"api/stored", "storage"}},
	{"api/directory", []string{"api/fresh", "api/health", "api/stored", "storage"}},
	{"api/fresh", []string{"storage/access"}},
	{"api/git", []string{"api/answer", "api/smarthttp", "api/stored", "storage"}},
	{"api/health", []string{"storage"}},
	{"api/pages", []string{"api/answer", "api/browse", "api/directory", "api/fresh", "api/health", "api/route", "api/stored", "api/wire", "storage"}},
	{"api/route", []string{"storage/feed"}},
	{"api/sbom", []string{"api/wire"}},
	{"api/smarthttp", []string{"api/pace", "storage"}},
	{"api/stored", []string{"api/answer", "storage"}},
	{"api/wire", []string{"storage/zigpkg"}},
	{"worker", []string{"storage"}},
	{"docker/smoke", nil},
	{"migrations", nil},
	{"storage", []string{"migrations"}},
	{"storage/fault", nil},
	{"storage/name", []string{"storage/fault"}},
	{"storage/access", []string{"storage/pg", "storage/fault", "storage/name"}},
	{"storage/feed", []string{"storage/pg", "storage/fault", "storage/access", "storage/blob", "storage/userfile"}},
	{"storage/jobs", []string{"storage/pg", "storage/fault", "storage/access"}},
	{"storage/catalog", []string{"storage/pg", "storage/fault", "storage/access", "storage/jobs", "storage/name"}},
	{"storage/scrub", []string{"storage/pg", "storage/fault", "storage/access"}},
	{"storage/blob", nil},
	{"storage/engines", nil},
	{"storage/gitpack", nil},
	{"storage/logbook", nil},
	{"storage/pktline", nil},
	{"storage/queue", nil},
	{"storage/release", []string{"storage/name", "storage/fault", "storage/blob", "storage/gitpack", "storage/tarball", "storage/strangejson", "storage/zigpkg"}},
	{"storage/strangejson", nil},
	{"storage/tarball", nil},
	{"storage/zigpkg", nil},
	{"tests", []string{"api", "worker", "storage", "migrations"}},
	{"tests/harness/engine", []string{"storage/engines"}},
	{"tests/env", []string{"storage/engines"}},
}

func TestImports(t *testing.T) {
	t.Parallel()
	for _, pkg := range listPackages(t) {
		own, may := "", []string(nil)
		for _, rule := range imports {
			if below(pkg.path(), rule.path) && len(rule.path) > len(own) {
				own, may = rule.path, rule.may
			}
		}
		if own == "" {
			t.Errorf("%s has no place in the layout, want a rule for it here", pkg.path())
			continue
		}
		for _, path := range slices.Concat(pkg.Imports, pkg.TestImports, pkg.XTestImports) {
			path, ours := strings.CutPrefix(path, module+"/")
			if ours && !slices.ContainsFunc(append(may, own), func(p string) bool { return below(path, p) }) {
				t.Errorf("%s imports %s, want only what is below %q", pkg.path(), path, append(may, own))
			}
		}
	}
}

// Bytes from upstream are parsed in a child process of the worker, and nothing
// else dials upstream.
func TestOnlyUpstreamSpeaksGit(t *testing.T) {
	t.Parallel()
	for _, pkg := range listPackages(t) {
		for _, path := range pkg.Imports {
			if below(path, "github.com/go-git/go-git") && !below(pkg.path(), "worker/upstream") && !below(pkg.path(), "tests") {
				t.Errorf("%s imports %s, want that in worker/upstream alone", pkg.path(), path)
			}
		}
		if below(pkg.path(), "api") && slices.ContainsFunc(pkg.Deps, func(p string) bool { return below(p, "github.com/go-git/go-git") }) {
			t.Errorf("%s depends on go-git, want api free of it", pkg.path())
		}
	}
}

// Packages for tests stay out of the binary.
func TestNoTestPackagesInBinary(t *testing.T) {
	t.Parallel()
	for _, pkg := range listPackages(t) {
		if !below(pkg.path(), "cmd") {
			continue
		}
		for _, path := range pkg.Deps {
			if path == "testing" || below(path, module) && strings.HasSuffix(path, "test") {
				t.Errorf("%s depends on %s, want no test package", pkg.path(), path)
			}
		}
	}
}

// listed is what go list says of a package.
type listed struct {
	ImportPath                               string
	Imports, TestImports, XTestImports, Deps []string
}

// path returns the package's path below the module.
func (l listed) path() string { return strings.TrimPrefix(l.ImportPath, module+"/") }

// below reports whether path is parent or lies below it.
func below(path, parent string) bool {
	return path == parent || strings.HasPrefix(path, parent+"/")
}

func listPackages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-tags", "failpoint,faults,clients",
		"-json=ImportPath,Imports,TestImports,XTestImports,Deps", module+"/...")
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		t.Fatalf("go list: %v\n%s", err, exit.Stderr)
	} else if err != nil {
		t.Fatal(err)
	}
	var packages []listed
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var pkg listed
		if err := decoder.Decode(&pkg); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, pkg)
	}
}
