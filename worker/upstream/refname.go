package upstream

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	tagPrefix    = "refs/tags/"
	branchPrefix = "refs/heads/"

	// maxRefName is the longest ref name in bytes, prefix included: Git keeps
	// each component as a file name.
	maxRefName = 255
)

// badRefName says why name cannot be a ref, or returns "". The rules are those
// of git-check-ref-format(1), of git tag (no leading dash), and ours: UTF-8,
// printable, at most maxRefName bytes.
func badRefName(name string) string {
	switch {
	case len(name) > maxRefName:
		return "longer than 255 bytes"
	case !utf8.ValidString(name):
		return "not UTF-8"
	case strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return "has a character that does not print"
	case strings.ContainsAny(name, ` ~^:?*[\`):
		return `has a space or one of ~^:?*[\`
	case strings.Contains(name, ".."), strings.Contains(name, "@{"):
		return `has ".." or "@{"`
	case strings.HasSuffix(name, "."):
		return "ends with a dot"
	}
	for component := range strings.SplitSeq(name, "/") {
		switch {
		case component == "":
			return "has an empty component"
		case component[0] == '.' || strings.HasSuffix(component, ".lock"):
			return `has a component that starts with a dot or ends with ".lock"`
		}
	}
	for _, prefix := range []string{tagPrefix, branchPrefix} {
		if strings.HasPrefix(name, prefix+"-") {
			return "starts with a dash"
		}
	}
	return ""
}
