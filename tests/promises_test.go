package tests

import (
	"cmp"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// docs/promises.md has every number that sources cite, and the tests that it
// names exist.
func TestPromises(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../docs/promises.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for _, row := range regexp.MustCompile(`(?m)^\| ([A-Z]+-?\d+) \| (.*) \|$`).FindAllStringSubmatch(string(raw), -1) {
		if _, twice := rows[row[1]]; twice {
			t.Errorf("docs/promises.md has %s twice", row[1])
		}
		rows[row[1]] = row[2]
	}
	source := sources(t)
	tests := map[string]bool{}
	for _, name := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(source, -1) {
		tests[name[1]] = true
	}
	for id, row := range rows {
		named := regexp.MustCompile(`\bTest[A-Za-z0-9]+`).FindAllString(row, -1)
		if strings.HasPrefix(id, "R-") && len(named) == 0 && !strings.Contains(row, "**Open**") {
			t.Errorf("no test holds %s", id)
		}
		for _, name := range named {
			if !tests[name] {
				t.Errorf("%s is held by %s, which does not exist", id, name)
			}
		}
	}
	for _, id := range regexp.MustCompile(`\b(?:R|CR|DB|RQ|UP|EG|NM|HT|AU|GT|IM|ED|OP|SK)-\d{2}\b`).FindAllString(source, -1) {
		if rows[id] == "" {
			t.Errorf("%s is cited, and not in docs/promises.md", id)
		}
	}
}

// sources returns all Go files of the repository as one.
func sources(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && d.Name() == "data" {
			return cmp.Or(err, fs.SkipDir)
		}
		if filepath.Ext(path) == ".go" {
			raw, err := os.ReadFile(path)
			all.Write(raw)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}
