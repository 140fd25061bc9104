package storage

import "github.com/francescobianco/packbase/storage/name"

// HiddenTags returns the tags that Git clients are not shown, and why: no
// client can hold a tag "a" beside "a/b", and one on a case-insensitive disk
// cannot hold two that differ in case only. The one published first is shown.
// Nor are tags shown that are named like a commit, which older releases of
// packbase published. Their tarballs are there all the same.
//
// releases are those of one package, in order of publication.
func HiddenTags(releases []Release) map[string]string {
	hidden := map[string]string{}
	names := name.Refs{Kind: "tag"}
	for i := range releases {
		tag := releases[i].Tag
		if tag == "" {
			continue
		}
		if reason := names.Add(tag); reason != "" {
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
	names := name.Refs{Kind: "branch"}
	for _, ours := range []string{"main", "HEAD"} {
		names.Add(ours)
	}
	var shown []Branch
	for _, b := range branches {
		if here[b.Commit] && !tags[b.Name] && names.Add(b.Name) == "" {
			shown = append(shown, b)
		}
	}
	return shown
}
