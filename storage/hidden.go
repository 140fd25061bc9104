package storage

import (
	"fmt"
	"strings"

	"golang.org/x/text/unicode/norm"
)

// HiddenTags returns the tags that Git clients are not shown, and why: no
// client can hold a tag "a" beside "a/b", and one on a case-insensitive disk
// cannot hold two that differ in case only. The one published first is shown.
// Nor are tags shown that are named like a commit, which older releases of
// packbase published. Their tarballs are there all the same.
//
// releases are those of one package, in order of publication.
func HiddenTags(releases []Release) map[string]string {
	hidden := map[string]string{}
	names := refNames{kind: "tag"}
	for i := range releases {
		tag := releases[i].Tag
		if tag == "" {
			continue
		}
		if reason := names.add(tag); reason != "" {
			hidden[tag] = reason
		}
	}
	return hidden
}

// ShownBranches returns those branches that Git clients are shown beside main,
// by the rules of HiddenTags: of two that clash, the one that was asked for
// last. What is named like a release is not shown, for a client that asks for
// that name wants the release; nor is what is not here.
func ShownBranches(branches []Branch, releases []Release) []Branch {
	here, tags := map[string]bool{}, map[string]bool{}
	for i := range releases {
		here[releases[i].CommitOID], tags[releases[i].Tag] = true, true
	}
	names := refNames{kind: "branch"}
	for _, ours := range []string{"main", "HEAD"} {
		names.add(ours)
	}
	var shown []Branch
	for _, b := range branches {
		if here[b.Commit] && !tags[b.Name] && names.add(b.Name) == "" {
			shown = append(shown, b)
		}
	}
	return shown
}

// refNames are names that a Git client can hold at once.
type refNames struct {
	kind    string            // of ref, for people
	shown   map[string]string // folded name to name
	folders map[string]string // folded folder to a name within
}

// add adds a name, or says what keeps it out.
func (n *refNames) add(name string) string {
	if n.shown == nil {
		n.shown, n.folders = map[string]string{}, map[string]string{}
	}
	folded := strings.ToLower(norm.NFC.String(name))
	if reason := n.clash(name, folded); reason != "" {
		return reason
	}
	n.shown[folded] = name
	for dir := range parents(folded) {
		n.folders[dir] = name
	}
	return ""
}

func (n *refNames) clash(name, folded string) string {
	if ValidOID(name) {
		return "its name is a commit id"
	}
	if other, ok := n.shown[folded]; ok {
		return fmt.Sprintf("it differs from the %s %q in case only", n.kind, other)
	}
	if other, ok := n.folders[folded]; ok {
		return fmt.Sprintf("no Git client can hold it beside the %s %q", n.kind, other)
	}
	for dir := range parents(folded) {
		if other, ok := n.shown[dir]; ok {
			return fmt.Sprintf("no Git client can hold it beside the %s %q", n.kind, other)
		}
	}
	return ""
}

// parents yields the folders that a ref name lies in.
func parents(name string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for i, c := range name {
			if c == '/' && !yield(name[:i]) {
				return
			}
		}
	}
}
