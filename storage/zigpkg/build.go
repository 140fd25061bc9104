package zigpkg

import (
	"slices"
	"strings"
	"unicode"
)

// BuildName is the path of the file that says how a package is built.
const BuildName = "build.zig"

// MaxBuildBytes is the length up to which a build.zig is looked at.
const MaxBuildBytes = 1 << 20

// Limits of what is told of one build.zig.
const (
	maxModules  = 50
	maxOptions  = 100
	maxBuilt    = 200 // bytes of a name or a text
	maxTypeSpan = 32  // tokens of an option's type
	maxConsts   = 200 // strings that have names
)

// A Build is what a build.zig seems to offer to those who depend on the package.
//
// It is found without running the file: what is named by a variable or made in a
// loop is not in it, and what is made under a condition is.
type Build struct {
	Modules  []string // in the order of the file
	Options  []Option // in the order of the file
	Target   bool     // it takes the standard option "target"
	Optimize bool     // it takes the standard option "optimize"
}

// An Option is one that is given as zig build -Dname=value, or to b.dependency.
type Option struct {
	Name string `json:"name"`
	Type string `json:"type"`            // as written
	Text string `json:"about,omitempty"` // what the file says that it does
}

// ScanBuild looks for modules and options in a build.zig. There is none of either
// in what it cannot read; it takes time in proportion to the length.
func ScanBuild(src []byte) (found Build) {
	if len(src) > MaxBuildBytes {
		return found
	}
	s := buildScanner{p: parser{src: src}, consts: map[string]string{}} // usable by no release, so that nothing is refused
	s.next()
	for s.tok.kind != end {
		switch {
		case s.call("addModule"):
			of, name := s.holder, s.literal()
			if s.tok.kind == ',' {
				s.next()
			}
			// Up to 0.11 a program was given one so: exe.addModule("name", of).
			if of == "b" || of == "builder" || s.tok.kind == '.' {
				found.module(name)
			}
		case s.call("put") && s.holder == "modules":
			for range 4 { // b.modules.put(b.allocator, "name", of)
				if s.tok.kind == identifier || s.tok.kind == '.' || s.tok.kind == ',' {
					s.next()
				}
			}
			found.module(s.literal())
		case s.call("option"):
			found.option(s.option())
		case s.call("standardTargetOptions"):
			found.Target = true
		case s.call("standardOptimizeOption"):
			found.Optimize = true
		case s.tok.kind == '=' && s.last[1] == "const":
			name := s.last[0]
			s.next()
			if text := s.literal(); text != "" && len(s.consts) < maxConsts {
				s.consts[name] = text
			}
		default:
			s.next()
		}
	}
	return found
}

func (b *Build) module(name string) {
	if named(name) && len(b.Modules) < maxModules && !slices.Contains(b.Modules, name) {
		b.Modules = append(b.Modules, name)
	}
}

func (b *Build) option(o Option) {
	known := func(other Option) bool { return other.Name == o.Name }
	if named(o.Name) && len(b.Options) < maxOptions && !slices.ContainsFunc(b.Options, known) {
		b.Options = append(b.Options, o)
	}
}

// A buildScanner reads a build.zig token by token.
type buildScanner struct {
	p      parser
	tok    token
	last   [2]string // the words before the token at hand, the nearest first
	holder string    // of the last call: x in x.f(
	consts map[string]string
}

// next goes to the next token. Unlike in a manifest, comments of any kind may
// stand anywhere, and what is no token is passed over.
func (s *buildScanner) next() {
	if s.tok.kind != '.' {
		s.last = [2]string{s.text(), s.last[0]}
	}
	for pos := s.tok.end; ; {
		pos = s.p.space(pos)
		if s.p.at(pos) == '/' && s.p.at(pos+1) == '/' {
			pos = s.p.line(pos)
			continue
		}
		s.tok = s.p.tokenAt(pos)
		if s.tok.kind != end || pos == len(s.p.src) {
			return
		}
		pos++
	}
}

func (s *buildScanner) text() string { return string(s.p.src[s.tok.start:s.tok.end]) }

// call reports whether the token at hand opens the arguments of a call of
// x.method, and passes over it if so.
func (s *buildScanner) call(method string) bool {
	if s.tok.kind != '(' || s.last[0] != method {
		return false
	}
	s.holder = s.last[1]
	s.next()
	return true
}

// literal returns what the string at hand is, or the constant; "" if there is
// none. It passes over it.
func (s *buildScanner) literal() string {
	if text := s.consts[s.text()]; text != "" && s.tok.kind == identifier {
		s.next()
		return text
	}
	if s.tok.kind != stringLiteral || s.tok.end-s.tok.start < 2 || s.tok.end == len(s.p.src) {
		return ""
	}
	text := s.p.unquote(s.tok)
	s.next()
	return text
}

// named reports whether text is a name that people can see and copy as it is: others are not told.
func named(text string) bool { return text != "" && text == printable(text) }

// printable makes text of any bytes, on one line and of bounded length.
func printable(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) && !unicode.IsSpace(r) {
			return unicode.ReplacementChar
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxBuilt {
		return strings.ToValidUTF8(text[:maxBuilt], "") + "…"
	}
	return text
}

// option reads the arguments of b.option: a type, a name and what it does.
func (s *buildScanner) option() (o Option) {
	start, stop, depth := s.tok.start, s.tok.start, 0
	for range maxTypeSpan {
		switch s.tok.kind {
		case '(', '[', '{':
			depth++
		case ')', ']', '}':
			depth--
		}
		if depth < 0 || s.tok.kind == end || depth == 0 && s.tok.kind == ',' {
			break
		}
		stop = s.tok.end
		s.next()
	}
	if s.tok.kind != ',' {
		return Option{}
	}
	o.Type = printable(string(s.p.src[start:stop]))
	s.next()
	if o.Name = s.literal(); s.tok.kind != ',' {
		return Option{}
	}
	s.next()
	o.Text = printable(s.literal())
	var lines []string
	for s.tok.kind == multilineLiteral {
		lines = append(lines, strings.TrimPrefix(s.text(), `\\`))
		s.next()
	}
	if o.Text == "" {
		o.Text = printable(strings.Join(lines, " "))
	}
	return o
}
