package tests

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
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

// maxExports is the most names and methods that a package shows to others.
const maxExports = 90

// No room has so many doors that nobody knows what is behind them.
func TestExports(t *testing.T) {
	t.Parallel()
	for _, pkg := range listPackages(t) {
		dir := filepath.Join("..", pkg.path())
		if pkg.ImportPath == module {
			dir = ".."
		}
		if n := exports(t, dir); n > maxExports {
			t.Errorf("%s exports %d names and methods, %d are allowed", pkg.path(), n, maxExports)
		}
	}
}

// exports counts the exported names of a package, and the methods of its
// exported types.
func exports(t *testing.T, dir string) (n int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		if !ast.FileExports(file) {
			continue
		}
		for _, decl := range file.Decls {
			switch decl := decl.(type) {
			case *ast.FuncDecl:
				if decl.Recv == nil || ast.IsExported(strings.TrimLeft(types.ExprString(decl.Recv.List[0].Type), "*")) {
					n++
				}
			case *ast.GenDecl:
				for _, spec := range decl.Specs {
					switch spec := spec.(type) {
					case *ast.TypeSpec:
						n++
					case *ast.ValueSpec:
						n += len(spec.Names)
					}
				}
			}
		}
	}
	return n
}
