package zigpkg

import "strings"

// SaveFlag returns the flag of `zig fetch` that adds a package to a project.
// Zig takes the name from the manifest, and fails where that has none: then
// the flag says one, made of what the package is called here.
func SaveFlag(manifestName, called string) string {
	if manifestName != "" {
		return "--save"
	}
	return "--save=" + Identifier(called)
}

// Identifier makes of name one that Zig reads without quotes.
func Identifier(name string) string {
	name = strings.Map(func(r rune) rune {
		if r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '_'
	}, name)
	if name != "" && name[0] <= '9' {
		name = "_" + name
	}
	return name
}
