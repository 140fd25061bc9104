package fault

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every code that the worker gives has its line in the table, and every line a
// place that gives it.
func TestCodes(t *testing.T) {
	t.Parallel()
	given, all := map[string]bool{}, ""
	code := regexp.MustCompile(`(?:fault\.New\(|\bCode\w+ += |\bCode: )"([a-z_0-9]+)"`)
	for _, dir := range []string{"../../worker", "../../storage", "../../api"} {
		err := filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || strings.HasSuffix(name, "/codes.go") {
				return err
			}
			raw, err := os.ReadFile(name)
			all += string(raw)
			for _, m := range code.FindAllStringSubmatch(string(raw), -1) {
				if dir == "../../worker" && !strings.Contains(name, "/upkeep/") {
					given[m[1]] = true
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	delete(given, "tag_name") // of a tag, not of a job
	for c := range given {
		if _, ok := codes[c]; !ok {
			t.Errorf("the worker gives the code %s, which is not in the table", c)
		}
	}
	for c := range codes {
		if !strings.Contains(all, `"`+c+`"`) {
			t.Errorf("nobody gives the code %s", c)
		}
	}
	if len(given) < 50 {
		t.Errorf("%d codes found in the worker, want more: the pattern does not fit", len(given))
	}
}
