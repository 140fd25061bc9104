package tests

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// In the picture of docs/architecture.md a package imports only what stands on
// lower lines, and each has its place and its sentence.
func TestArchitecture(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, picture, _ := strings.Cut(string(raw), "<!-- picture -->")
	picture, rest, _ := strings.Cut(picture, "<!-- end -->")
	line := map[string]int{}
	for i, row := range strings.Split(picture, "\n") {
		for _, room := range regexp.MustCompile(`[a-z]+[a-z/]*`).FindAllString(row, -1) {
			if line[room] != 0 {
				t.Errorf("%s is twice in the picture", room)
			}
			line[room] = i
		}
	}
	var rooms []string
	for _, pkg := range listPackages(t) {
		room := pkg.path()
		if below(room, "tests") || below(room, "docker") || strings.HasSuffix(room, "test") {
			continue
		}
		rooms = append(rooms, room)
		if line[room] == 0 {
			t.Errorf("%s has no place in the picture", room)
		}
		if !strings.Contains(rest, "\n| `"+room+"` | ") {
			t.Errorf("%s has no sentence", room)
		}
		for _, path := range pkg.Imports {
			if other, ours := strings.CutPrefix(path, module+"/"); ours && line[other] <= line[room] {
				t.Errorf("%s imports %s, which does not stand below it", room, other)
			}
		}
	}
	for room := range line {
		if !slices.Contains(rooms, room) {
			t.Errorf("there is no %s", room)
		}
	}
	for _, file := range regexp.MustCompile("`([a-z/]+/[a-z]+\\.(?:go|yaml))`").FindAllStringSubmatch(rest, -1) {
		if _, err := os.Stat("../" + file[1]); err != nil {
			t.Error(err)
		}
	}
}
