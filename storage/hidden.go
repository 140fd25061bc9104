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
	shown := map[string]string{}   // folded name to tag
	folders := map[string]string{} // folded folder to a tag within
	fold := func(s string) string { return strings.ToLower(norm.NFC.String(s)) }
	for i := range releases {
		tag := releases[i].Tag
		if tag == "" {
			continue
		}
		if ValidOID(tag) {
			hidden[tag] = "its name is a commit id"
			continue
		}
		if reason := clash(fold(tag), shown, folders); reason != "" {
			hidden[tag] = reason
			continue
		}
		shown[fold(tag)] = tag
		for dir := range parents(fold(tag)) {
			folders[dir] = tag
		}
	}
	return hidden
}

func clash(tag string, shown, folders map[string]string) string {
	if other, ok := shown[tag]; ok {
		return fmt.Sprintf("it differs from the tag %q in case only", other)
	}
	if other, ok := folders[tag]; ok {
		return fmt.Sprintf("no Git client can hold it beside the tag %q", other)
	}
	for dir := range parents(tag) {
		if other, ok := shown[dir]; ok {
			return fmt.Sprintf("no Git client can hold it beside the tag %q", other)
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
