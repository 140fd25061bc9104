package main

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/cmd/packbase/term"
)

// documents returns the repository's documents for its users, by path.
func documents(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	paths, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(paths) < 10 {
		t.Fatalf("%d documents, %v", len(paths), err)
	}
	for _, path := range append(paths, "../../README.md", "../../CONTRIBUTING.md") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all[path] = string(text)
	}
	return all
}

var (
	fence    = regexp.MustCompile("(?ms)^ *```(\\w*)\n(.*?)^ *```")
	span     = regexp.MustCompile("`([^`\n]+)`")
	link     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading  = regexp.MustCompile(`(?m)^#+ (.+)$`)
	noAnchor = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// What a document shows of the command line is there: command, subcommand and
// flags; and the page about it has every command.
func TestDocumentsShowCommandsThatExist(t *testing.T) {
	t.Parallel()
	root := commands(&term.Program{Getenv: func(string) string { return "" }})
	shown := map[string]bool{}
	for path, text := range documents(t) {
		for _, args := range shownCommands(text) {
			cmd, rest, err := root.Find(args)
			if err != nil || cmd == root {
				t.Errorf("%s shows `packbase %s`: %v", filepath.Base(path), strings.Join(args, " "), err)
				continue
			}
			shown[cmd.Name()] = true
			for _, flag := range flagsOf(rest) {
				if cmd.Flags().Lookup(flag) == nil && cmd.InheritedFlags().Lookup(flag) == nil {
					t.Errorf("%s shows `packbase %s`, which has no --%s", filepath.Base(path), strings.Join(args, " "), flag)
				}
			}
		}
	}
	if len(shown) < 15 {
		t.Errorf("only %v are shown", slices.Sorted(maps.Keys(shown)))
	}
	page := documents(t)["../../docs/command-line.md"]
	for _, cmd := range root.Commands() {
		if !cmd.Hidden && cmd.IsAvailableCommand() && !regexp.MustCompile("`"+cmd.Name()+"[` ]").MatchString(page) {
			t.Errorf("docs/command-line.md has no `%s`", cmd.Name())
		}
	}
}

// shownCommands returns the arguments of each packbase that a shell would run.
func shownCommands(text string) (all [][]string) {
	var lines []string
	for _, block := range fence.FindAllStringSubmatch(text, -1) {
		if block[1] == "sh" {
			lines = append(lines, strings.Split(strings.ReplaceAll(block[2], "\\\n", " "), "\n")...)
		}
	}
	for _, code := range span.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		lines = append(lines, strings.ReplaceAll(code[1], `\|`, "/"))
	}
	for _, line := range lines {
		line, _, _ = strings.Cut(line, " #")
		for command := range strings.FieldsFuncSeq(line, func(r rune) bool { return strings.ContainsRune("|&;()", r) }) {
			words := strings.Fields(command)
			for i := len(words) - 2; i >= 0; i-- {
				if filepath.Base(words[i]) == "packbase" && regexp.MustCompile(`^[a-z]`).MatchString(words[i+1]) {
					all = append(all, words[i+1:])
					break
				}
			}
		}
	}
	return all
}

// flagsOf returns the names of the long flags in args.
func flagsOf(args []string) (all []string) {
	for _, arg := range args {
		if arg == "--" {
			break
		}
		if name, ok := strings.CutPrefix(arg, "--"); ok {
			name, _, _ = strings.Cut(name, "=")
			all = append(all, name)
		}
	}
	return all
}

// Sizes have one unit in documents and in what programs say: of 1024 bytes.
func TestDocumentsHaveOneUnit(t *testing.T) {
	t.Parallel()
	all := documents(t)
	for _, name := range []string{"../../api/openapi.yaml", "../../CHANGELOG.md"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = string(text)
	}
	templates, err := filepath.Glob("../../api/pages/templates/*")
	if err != nil || len(templates) == 0 {
		t.Fatal(err)
	}
	for _, name := range templates {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = string(text)
	}
	for path, text := range all {
		for _, found := range regexp.MustCompile(`[0-9] ?[kKMGT]B\b.{0,20}`).FindAllString(text, -1) {
			t.Errorf("%s says %q: want KiB, MiB, GiB", filepath.Base(path), found)
		}
	}
}

// Links between documents lead to files, and to headings, that are there.
func TestDocumentsLink(t *testing.T) {
	t.Parallel()
	all := documents(t)
	links := 0
	for path, text := range all {
		for _, found := range link.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
			to, anchor, _ := strings.Cut(found[1], "#")
			if strings.Contains(to, "://") {
				continue
			}
			links++
			target := filepath.Join(filepath.Dir(path), to)
			if to == "" {
				target = path
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s: %v", filepath.Base(path), found[1], err)
			}
			if anchor != "" && !slices.Contains(anchors(all[target]), anchor) {
				t.Errorf("%s links to %s, where no heading is", filepath.Base(path), found[1])
			}
		}
	}
	if links < 20 {
		t.Errorf("%d links", links)
	}
}

// anchors returns what the headings of a document are called in links.
func anchors(text string) (all []string) {
	for _, h := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		all = append(all, strings.ReplaceAll(noAnchor.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-"))
	}
	return all
}
