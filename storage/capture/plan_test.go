package capture

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/storage/zigpkg"
)

const sha = "7e9f8b1a7e9f8b1a7e9f8b1a7e9f8b1a7e9f8b1a"

func hash(n int) string { return fmt.Sprintf("1220%064x", n) }

func dep(n int, url string, lazy bool) zigpkg.Dependency {
	return zigpkg.Dependency{Name: fmt.Sprint("d", n), URL: url, Hash: hash(n), Lazy: lazy}
}

// shelf is what is stored: dependencies by hash.
type shelf map[string][]zigpkg.Dependency

func (s shelf) deps(_ context.Context, hashes []string) (map[string][]zigpkg.Dependency, error) {
	found := map[string][]zigpkg.Dependency{}
	for _, hash := range hashes {
		if deps, ok := s[hash]; ok {
			found[hash] = deps
		}
	}
	return found, nil
}

func TestWalk(t *testing.T) {
	t.Parallel()
	roots := []zigpkg.Dependency{
		dep(1, "https://u:p@h/1.tar.gz", false),
		dep(2, "git+https://h/2?ref=main#"+sha, true),
		{Name: "path", Path: "libs/a"},
		{Name: "nohash", URL: "https://h/x.tar.gz"},
		{Name: "ssh", URL: "git+ssh://h/x", Hash: hash(9)},
	}
	stored := shelf{
		hash(1): {dep(3, "https://h/3.zip", true), dep(2, "https://other/2.tar.gz", false)},
		hash(3): {dep(1, "https://h/1-again.tar.gz", false)}, // round and round
	}
	nodes, problems, err := Walk(t.Context(), roots, stored.deps)
	if err != nil {
		t.Fatal(err)
	}
	want := []Node{
		{Hash: hash(1), URLs: []string{"https://h/1.tar.gz", "https://h/1-again.tar.gz"}, Depth: 1, Parents: []string{"", hash(3)}, Stored: true},
		{Hash: hash(2), URLs: []string{"git+https://h/2#" + sha, "https://other/2.tar.gz"}, Depth: 1, Parents: []string{"", hash(1)}},
		{Hash: hash(3), URLs: []string{"https://h/3.zip"}, Lazy: true, Depth: 2, Parents: []string{hash(1)}, Stored: true},
	}
	if len(nodes) != len(want) {
		t.Fatalf("got %d nodes, want %d", len(nodes), len(want))
	}
	for i, n := range nodes {
		w := want[i]
		if n.Hash != w.Hash || !slices.Equal(n.URLs, w.URLs) || n.Lazy != w.Lazy || n.Depth != w.Depth || !slices.Equal(n.Parents, w.Parents) || n.Stored != w.Stored {
			t.Errorf("node %d: got %+v, want %+v", i, *n, w)
		}
	}
	if len(problems) != 2 || problems[0].Name != "nohash" || problems[1].Name != "ssh" {
		t.Errorf("problems = %+v, want nohash and ssh", problems)
	}
}

func TestWalkLimits(t *testing.T) {
	t.Parallel()
	var wide []zigpkg.Dependency
	for i := range MaxNodes + 1 {
		wide = append(wide, dep(i, "https://h/x.tar", false))
	}
	if _, _, err := Walk(t.Context(), wide, shelf{}.deps); !errors.Is(err, ErrTooLarge) {
		t.Errorf("%d nodes: err = %v, want ErrTooLarge", len(wide), err)
	}
	asked := 0
	nodes, _, err := Walk(t.Context(), wide[1:], func(ctx context.Context, hashes []string) (map[string][]zigpkg.Dependency, error) {
		asked++
		return shelf{hash(1): {dep(MaxNodes, "https://h/x.tar", false), dep(2, "https://h/x.tar", false)}}.deps(ctx, hashes)
	})
	if err != nil || len(nodes) != MaxNodes || asked != 1 {
		t.Errorf("%d nodes: got %d, after %d questions, %v; want one question", MaxNodes, len(nodes), asked, err)
	}
	deep := shelf{}
	for i := range MaxDepth + 1 {
		deep[hash(i)] = []zigpkg.Dependency{dep(i+1, "https://h/x.tar", false)}
	}
	root := []zigpkg.Dependency{dep(0, "https://h/x.tar", false)}
	if _, _, err := Walk(t.Context(), root, deep.deps); !errors.Is(err, ErrTooLarge) {
		t.Errorf("depth %d: err = %v, want ErrTooLarge", MaxDepth+1, err)
	}
	delete(deep, hash(MaxDepth-1))
	if nodes, _, err := Walk(t.Context(), root, deep.deps); err != nil || len(nodes) != MaxDepth {
		t.Errorf("depth %d: %d nodes, %v", MaxDepth, len(nodes), err)
	}
}

func TestWays(t *testing.T) {
	t.Parallel()
	n := &Node{URLs: []string{"https://github.com/o/r/archive/" + sha + ".tar.gz", "git+https://codeberg.org/o/r#" + sha, "git+https://h/r#v1", "https://h/x.zip"}}
	var got []string
	for _, w := range Ways(n, []string{"https://mirror"}) {
		got = append(got, strings.TrimSpace(w.Kind+" "+w.URL+" "+w.Ref))
	}
	want := []string{
		"archive https://github.com/o/r/archive/" + sha + ".tar.gz",
		"snapshot https://codeberg.org/o/r " + sha,
		"snapshot https://h/r v1",
		"archive https://h/x.zip",
		"snapshot https://github.com/o/r " + sha,
		"archive https://codeberg.org/o/r/archive/" + sha + ".tar.gz",
		"peer https://mirror",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Of an incomplete tree Zig is given no lazy package that would have it ask for what is missing.
func TestUnusable(t *testing.T) {
	t.Parallel()
	hash := func(name string) string { return "1220" + strings.Repeat(name, 64) }
	dep := func(name string, lazy bool) zigpkg.Dependency {
		return zigpkg.Dependency{Name: name, URL: "https://example.org/" + name + ".tar.gz", Hash: hash(name), Lazy: lazy}
	}
	stored := map[string][]zigpkg.Dependency{
		hash("a"): {dep("b", true), dep("c", true), dep("d", false)},
		hash("b"): {dep("e", false)},                // lazy, and e needs what is missing
		hash("c"): {dep("f", true)},                 // lazy, and what is missing is lazy to it, too
		hash("d"): {dep("9", true), dep("8", true)}, // needed
		hash("e"): {dep("f", false)},
		hash("9"): {dep("7", false)},
		hash("7"): nil,
		hash("8"): {dep("b", false)},
	}
	nodes, _, err := Walk(t.Context(), []zigpkg.Dependency{dep("a", false)}, func(_ context.Context, hashes []string) (map[string][]zigpkg.Dependency, error) {
		found := map[string][]zigpkg.Dependency{}
		for _, h := range hashes {
			if deps, ok := stored[h]; ok {
				found[h] = deps
			}
		}
		return found, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for h, yes := range Unusable(nodes) {
		if yes {
			got = append(got, h[4:5])
		}
	}
	slices.Sort(got)
	if want := []string{"8", "b", "e"}; !slices.Equal(got, want) {
		t.Errorf("unusable: %v, want %v", got, want)
	}
}
