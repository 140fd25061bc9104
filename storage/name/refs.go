package name

import (
	"fmt"
	"strings"

	"golang.org/x/text/unicode/norm"
)

// Refs are names of refs that a Git client can hold at once: never "a" beside
// "a/b", nor two that differ in case only, nor one that is a commit's id.
type Refs struct {
	Kind    string            // of ref, for people
	shown   map[string]string // folded name to name
	folders map[string]string // folded folder to a name within
}

// Add adds a name, or says what keeps it out.
func (n *Refs) Add(name string) string {
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

func (n *Refs) clash(name, folded string) string {
	if ValidOID(name) {
		return "its name is a commit id"
	}
	if other, ok := n.shown[folded]; ok {
		return fmt.Sprintf("it differs from the %s %q in case only", n.Kind, other)
	}
	if other, ok := n.folders[folded]; ok {
		return fmt.Sprintf("no Git client can hold it beside the %s %q", n.Kind, other)
	}
	for dir := range parents(folded) {
		if other, ok := n.shown[dir]; ok {
			return fmt.Sprintf("no Git client can hold it beside the %s %q", n.Kind, other)
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
