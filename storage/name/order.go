package name

import (
	"time"

	"golang.org/x/mod/semver"
)

// CompareTags orders tags by which is the later release: stable semver
// versions above pre-releases above all other tags; among the others the
// newer commit is later. The result is negative, zero or positive.
//
// A missing "v" and missing parts are forgiven: "1.2" is v1.2.0.
func CompareTags(a string, aTime time.Time, b string, bTime time.Time) int {
	va, vb := tagVersion(a), tagVersion(b)
	if c := tagRank(va) - tagRank(vb); c != 0 {
		return c
	}
	if c := semver.Compare(va, vb); c != 0 {
		return c
	}
	if c := aTime.Compare(bTime); c != 0 {
		return c
	}
	if a < b {
		return -1
	}
	return 1
}

func tagVersion(tag string) string {
	if tag != "" && tag[0] != 'v' {
		tag = "v" + tag
	}
	if !semver.IsValid(tag) {
		return ""
	}
	return tag
}

func tagRank(version string) int {
	switch {
	case version == "":
		return 0
	case semver.Prerelease(version) != "":
		return 1
	}
	return 2
}
