package zigpkg

import (
	"cmp"
	"fmt"
	"strings"
)

// SaveFlag returns the flag of `zig fetch` that adds a package to a project.
// Zig takes the name from the manifest, and fails where that has none: then
// the flag says one, made of what the package is called here.
func SaveFlag(manifestName, called string) string {
	if manifestName != "" {
		return "--save"
	}
	return "--save=" + Identifier(called)
}

// Import returns the statement of a build.zig that gives a module of a dependency
// to a program: exe, target and optimize are what "zig init" calls them.
func (b *Build) Import(dependency, module string) string {
	args := ""
	if b.Target {
		args += "    .target = target,\n"
	}
	if b.Optimize {
		args += "    .optimize = optimize,\n"
	}
	if args != "" {
		args = "\n" + args
	}
	return "exe.root_module.addImport(" + Quote(module) + ", b.dependency(" + Quote(dependency) + ", .{" + args + "}).module(" + Quote(module) + "));"
}

// Quote writes s as a Zig string literal.
func Quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < 0x20 || c == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// DependencyName returns what a package is called in the build.zig.zon of a
// project that added it with SaveFlag.
func DependencyName(manifestName, called string) string {
	return cmp.Or(manifestName, Identifier(called))
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
