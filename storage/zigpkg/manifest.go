package zigpkg

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// ManifestName is the path of the manifest in a package. Zig opens it following
// symlinks, and takes a dangling one for no manifest.
const ManifestName = "build.zig.zon"

// MaxManifestBytes is the length that no manifest exceeds.
const MaxManifestBytes = 10 << 20

// Limits of Zig 0.14 and later, in bytes.
const (
	maxNameLen    = 32
	maxVersionLen = 32
)

// A Manifest is what Zig reads from a build.zig.zon. Escapes can put any bytes into
// its strings and its dependencies', NUL and what is not UTF-8 included.
// Refusals and Warnings are short and ASCII.
type Manifest struct {
	Name              string
	NameIsString      bool   // written .name = "x", as up to 0.15, not .name = .x, as since 0.14
	Version           string // semantic version, as Zig prints it
	Fingerprint       uint64 // 0 if there is none
	MinimumZigVersion string // semantic version, as Zig prints it; no Zig enforces it; "" if there is none

	// Paths holds the files and directories that make up the package, cleaned,
	// sorted and each once; "." is everything. It is nil if the field is absent,
	// which means everything, too.
	Paths        []string
	Dependencies []Dependency // in the order of the file

	// Refusals says why releases are not in UsableWith: at most one text a release,
	// each with line and column.
	Refusals []string
	// Warnings names what Zig accepts but the package's users will regret.
	Warnings []string

	usable releases // that accept the manifest
}

// UsableWith returns the Zig releases, of "0.12" to "0.17", that accept the manifest
// in a dependency, oldest first. There is at least one. With m nil, a package
// without build.zig.zon, they are all.
func (m *Manifest) UsableWith() []string {
	if m == nil {
		return releases(allReleases).names()
	}
	return m.usable.names()
}

// Refusals returns why releases, of "0.12" to "0.17", do not accept a manifest: what
// each stumbles over first, with line and column. There is none of those that do.
func Refusals(src []byte) map[string]string {
	p := newParser(src)
	if len(src) > MaxManifestBytes {
		p.refuse(allReleases, 0, "it is longer than %d bytes", MaxManifestBytes)
	} else {
		p.next()
		p.root()
	}
	reasons := map[string]string{}
	for i, why := range p.why {
		if why != "" {
			reasons[releaseNames[i]] = why
		}
	}
	return reasons
}

// A Dependency is one entry of a manifest's .dependencies.
// It has either a URL, and a hash if it is to be fetched, or a path.
type Dependency struct {
	Name string `json:"name"`
	URL  string `json:"url,omitempty"`
	Path string `json:"path,omitempty"` // as written
	Hash string `json:"hash,omitempty"` // as written, of either form
	Lazy bool   `json:"lazy,omitempty"`
}

// ParseManifest reads a build.zig.zon.
//
// The error is not nil if no Zig release accepts the file. It begins with the line
// and the column, in bytes, that the first refusal is about.
func ParseManifest(src []byte) (*Manifest, error) {
	if len(src) > MaxManifestBytes {
		return nil, fmt.Errorf("manifest is longer than %d bytes", MaxManifestBytes)
	}
	p := newParser(src)
	p.next()
	p.root()
	if p.m.usable == 0 {
		return nil, errors.New(strings.Join(p.m.Refusals, "; "))
	}
	slices.Sort(p.m.Paths)
	p.m.Paths = slices.Compact(p.m.Paths)
	p.warn()
	return &p.m, nil
}

// Includes reports whether the file at path is part of the package.
// Without a manifest, every file is.
func (m *Manifest) Includes(file string) bool {
	if m == nil || m.Paths == nil || m.has(".") || m.has(file) {
		return true
	}
	for i := strings.LastIndexByte(file, '/'); i > 0; i = strings.LastIndexByte(file[:i], '/') {
		if m.has(file[:i]) {
			return true
		}
	}
	return false
}

func (m *Manifest) has(path string) bool {
	_, found := slices.BinarySearch(m.Paths, path)
	return found
}

// A parser reads a manifest for all Zig releases at once. What some of them do not
// accept, it refuses for these and reads on for the others.
type parser struct {
	src      []byte // without byte order mark
	tok      token  // the next one to read
	m        Manifest
	depIndex map[string]int // of m.Dependencies, by name
	why      [len(releaseNames)]string
}

func newParser(src []byte) *parser {
	p := &parser{src: bytes.TrimPrefix(src, []byte("\xef\xbb\xbf")), m: Manifest{usable: allReleases}, depIndex: map[string]int{}}
	if len(src) == MaxManifestBytes {
		p.refuse(from016, 0, "it is as long as %d bytes", MaxManifestBytes)
	}
	return p
}

// refuse takes the releases out of those that accept the file, because of what is
// at pos. It costs next to nothing when they have refused it before.
func (p *parser) refuse(by releases, pos int, format string, args ...any) {
	if p.m.usable&by == 0 {
		return
	}
	first := p.m.usable & by
	p.m.usable &^= by
	if by == allReleases {
		p.m.Refusals = nil // now beside the point
	}
	before := p.src[:pos]
	line := bytes.Count(before, []byte{'\n'}) + 1
	column := pos - bytes.LastIndexByte(before, '\n')
	reason := fmt.Sprintf(format, args...)
	for i := range p.why {
		if first&(1<<i) != 0 {
			p.why[i] = fmt.Sprintf("%d:%d: %s", line, column, reason)
		}
	}
	if by != allReleases {
		reason += fmt.Sprintf(" (Zig %v)", by)
	}
	p.m.Refusals = append(p.m.Refusals, fmt.Sprintf("%d:%d: %s", line, column, reason))
}

func (p *parser) next()        { p.tok = p.scan(p.tok.end) }
func (p *parser) peek() token  { return p.scan(p.tok.end) }
func (p *parser) text() string { return string(p.src[p.tok.start:p.tok.end]) }

// expect passes over a token of kind k.
func (p *parser) expect(k kind, what string) {
	if p.tok.kind != k {
		p.refuse(allReleases, p.tok.start, "expected %s", what)
	}
	p.next()
}

// is reports whether the value at hand is a single token of kind k.
func (p *parser) is(k kind) bool {
	if p.tok.kind != k {
		return false
	}
	after := p.peek().kind
	return after == ',' || after == '}'
}

// root reads the whole file.
// Source: Manifest.Parse.parseRoot.
func (p *parser) root() {
	var name, fingerprint, version bool
	start := p.tok.start
	p.fields("expected top level expression to be a struct", func(field string) {
		switch field {
		case "name":
			name = true
			p.name()
		case "version":
			version = true
			p.m.Version = p.version(from014)
		case "minimum_zig_version":
			p.m.MinimumZigVersion = p.version(0)
		case "fingerprint":
			fingerprint = true
			p.fingerprint()
		case "paths":
			p.paths()
		case "dependencies":
			p.fields("expected dependencies expression to be a struct", p.dependency)
		default:
			p.skip()
		}
	})
	p.expect(end, "end of file after the struct")

	if !name {
		p.refuse(allReleases, start, "missing top-level 'name' field")
	}
	if !version {
		p.refuse(allReleases, start, "missing top-level 'version' field")
	}
	checksum := crc32.ChecksumIEEE([]byte(p.m.Name))
	switch id := uint32(p.m.Fingerprint); {
	case !fingerprint:
		p.refuse(from016, start, "missing top-level 'fingerprint' field")
	case id == 0 || id == 0xffffffff:
		p.refuse(from014, start, "invalid fingerprint: 0x%x; its low half must be neither 0 nor 0xffffffff", p.m.Fingerprint)
	case uint32(p.m.Fingerprint>>32) != checksum:
		p.refuse(from014, start, "invalid fingerprint: 0x%x; its high half must be 0x%08x, the checksum of the name", p.m.Fingerprint, checksum)
	}
}

// warn fills in m.Warnings.
func (p *parser) warn() {
	if p.m.Paths == nil {
		p.m.Warnings = append(p.m.Warnings,
			"missing top-level 'paths' field: zig fetch refuses the package, as a dependency it has all files")
	}
	if !p.m.Includes(ManifestName) {
		p.m.Warnings = append(p.m.Warnings,
			"paths do not include build.zig.zon: from the cache of Zig 0.16 and later the package has another hash")
	}
}

// fields reads a struct literal, .{ .field = value, ... }, and calls value at each
// value with the name of its field. The message tells that it is no struct.
func (p *parser) fields(message string, value func(field string)) {
	start := p.tok.start
	if !p.open() || p.tok.kind != '}' && !p.isField() {
		p.refuse(allReleases, start, "%s", message)
		return
	}
	for p.tok.kind != '}' && p.tok.kind != end {
		p.expect('.', "field initializer")
		field := p.text()
		if p.tok.kind == identifier && field[0] == '@' {
			field = p.unquote(p.tok)
		}
		p.expect(identifier, "field name")
		p.expect('=', "'=' after field name")
		value(field)
		p.comma()
	}
	p.expect('}', "'}'")
}

// open passes over the start of a struct or list literal: .{ or a type and {.
func (p *parser) open() bool {
	if p.tok.kind == '.' && p.peek().kind == '{' {
		p.next()
		p.next()
		return true
	}
	typed := false
	for ; p.tok.kind != '{'; p.next() {
		switch {
		case p.tok.kind == '[':
			p.group()
		case p.tok.kind == '.' && p.peek().kind == identifier:
		case p.tok.kind == identifier:
		case p.tok.kind == numberLiteral && p.peek().kind == '{': // no type, but Zig sees that later, if it looks
		case p.text() == "const":
		default:
			return false
		}
		typed = true
	}
	p.next()
	return typed
}

// isField reports whether a field begins at the token at hand, not an element.
func (p *parser) isField() bool {
	field := p.peek()
	return p.tok.kind == '.' && field.kind == identifier && p.scan(field.end).kind == '='
}

// comma passes over the comma between two parts of a literal; the last may lack it.
func (p *parser) comma() {
	if p.tok.kind != '}' {
		p.expect(',', "',' after initializer")
	}
}

// string reads a string literal on one line.
func (p *parser) string() string {
	if !p.is(stringLiteral) {
		p.refuse(allReleases, p.tok.start, "expected string literal")
		return ""
	}
	s := p.unquote(p.tok)
	p.next()
	return s
}

// name reads a string, .name = "x", or an enum literal, .name = .x.
func (p *parser) name() {
	start := p.tok.start
	if p.m.NameIsString = p.tok.kind == stringLiteral; p.m.NameIsString {
		p.m.Name = p.string()
		by := keywordIn(p.m.Name)
		if !isIdentifier(p.m.Name) {
			by = allReleases
		}
		p.refuse(from014&by, start, "name must be a valid bare zig identifier")
		p.refuse(from016, start, "expected enum literal")
	} else {
		p.expect('.', "enum literal")
		if !p.is(identifier) {
			p.refuse(allReleases, start, "expected enum literal")
		}
		p.m.Name = p.text()
		if strings.HasPrefix(p.m.Name, "@") {
			p.refuse(from014, start, "name must be a valid bare zig identifier")
		}
		p.refuse(upTo013, start, "expected string literal")
		p.next()
	}
	if len(p.m.Name) > maxNameLen {
		p.refuse(from014, start, "name exceeds max length of %d", maxNameLen)
	}
}

// version reads a string with a semantic version. The releases of limited do not
// accept a long one.
func (p *parser) version(limited releases) string {
	start := p.tok.start
	s := p.string()
	if len(s) > maxVersionLen {
		p.refuse(limited, start, "version string length %d exceeds maximum of %d", len(s), maxVersionLen)
	}
	v, err := parseVersion(s)
	if err != nil {
		p.refuse(allReleases, start, "unable to parse semantic version: %v", err)
	}
	return v
}

// fingerprint reads an integer literal. Before 0.14 the field has no meaning.
// Source: std.zig.parseNumberLiteral.
func (p *parser) fingerprint() {
	start := p.tok.start
	if !p.is(numberLiteral) {
		p.refuse(from014, start, "expected integer literal")
		p.skip()
		return
	}
	v, err := strconv.ParseUint(p.text(), 0, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		p.refuse(from014, start, "expected u64 integer literal, found big_int")
	case err != nil || !integer.MatchString(p.text()):
		p.refuse(from014, start, "bad integer literal")
	default:
		p.m.Fingerprint = v
	}
	p.next()
}

// integer tells Zig's integers from what else Go reads as one: 0X1, 01, 0_1, 0x_1.
var integer = regexp.MustCompile(`^(0$|[1-9]|0[box][^_])`)

// paths reads a list of strings.
func (p *parser) paths() {
	start := p.tok.start
	if !p.open() || p.tok.kind == '}' || p.isField() {
		p.refuse(allReleases, start, "expected paths expression to be a list of strings")
		return
	}
	for p.tok.kind != '}' && p.tok.kind != end {
		p.m.Paths = append(p.m.Paths, path.Clean(p.string()))
		p.comma()
	}
	p.expect('}', "'}'")
}

// dependency reads one of .dependencies. The last of a name counts, in the place
// of the first.
func (p *parser) dependency(name string) {
	dep := Dependency{Name: name}
	located := false
	start := p.tok.start
	location := func(dst *string) {
		if located {
			p.refuse(allReleases, p.tok.start, "dependency should specify only one of 'url' and 'path' fields")
		}
		located = true
		*dst = p.string()
	}
	p.fields("expected dependency expression to be a struct", func(field string) {
		switch field {
		case "url":
			location(&dep.URL)
		case "path":
			location(&dep.Path)
		case "hash":
			dep.Hash = p.hash()
		case "lazy":
			dep.Lazy = p.bool()
		default:
			p.skip()
		}
	})
	if !located {
		p.refuse(allReleases, start, "dependency requires location field, one of 'url' or 'path'")
	}
	if i, ok := p.depIndex[name]; ok {
		p.m.Dependencies[i] = dep
		return
	}
	p.depIndex[name] = len(p.m.Dependencies)
	p.m.Dependencies = append(p.m.Dependencies, dep)
}

// hash reads a string with a package hash.
// Source: Manifest.Parse.parseHash, Package.Hash.validate.
func (p *parser) hash() string {
	start := p.tok.start
	s := p.string()
	if len(s) != legacyLen || !strings.HasPrefix(s, "12") {
		p.refuse(upTo013, start, "invalid multihash value")
	}
	switch {
	case len(s) > maxHashLen:
		p.refuse(from014, start, "invalid hash: long")
	case len(s) < tailLen:
		p.refuse(from016, start, "invalid hash: short")
	case strings.Count(s[:len(s)-tailLen], "-") < 2:
		p.refuse(from016, start, "invalid hash: incomplete")
	}
	return s
}

// bool reads true or false.
func (p *parser) bool() bool {
	word := p.text()
	if !p.is(identifier) || word != "true" && word != "false" {
		p.refuse(allReleases, p.tok.start, "expected boolean")
	}
	p.next()
	return word == "true"
}

// skip passes over a value that Zig does not look at.
func (p *parser) skip() {
	if p.tok.kind == ',' || p.tok.kind == '}' {
		p.refuse(allReleases, p.tok.start, "expected expression")
	}
	for p.tok.kind != ',' && p.tok.kind != '}' && p.tok.kind != end {
		switch p.tok.kind {
		case '(', '[', '{':
			p.group()
		case ')', ']', '=':
			p.refuse(allReleases, p.tok.start, "expected ',' after initializer")
		}
		p.step()
	}
}

// group passes over everything in brackets, up to the closing one.
func (p *parser) group() {
	var open []kind // closing brackets to come, innermost last
	for {
		switch p.tok.kind {
		case '(':
			open = append(open, ')')
		case '[', '{':
			open = append(open, p.tok.kind+2) // in ASCII
		case ')', ']', '}', end:
			if want := open[len(open)-1]; p.tok.kind != want {
				p.refuse(allReleases, p.tok.start, "expected '%c'", want)
				return
			}
			if open = open[:len(open)-1]; len(open) == 0 {
				return
			}
		}
		p.step()
	}
}

// step passes over one token of a value that Zig does not look at. It refuses what
// is most likely a slip: two literals without a comma, two commas, a dot before a keyword.
func (p *parser) step() {
	last := p.tok.kind
	p.next()
	switch p.tok.kind {
	case identifier, stringLiteral, charLiteral, numberLiteral:
		if last == stringLiteral || last == charLiteral || last == numberLiteral {
			p.refuse(allReleases, p.tok.start, "expected ',' after initializer")
		}
	case ',':
		if last == ',' || last == '(' || last == '[' || last == '{' {
			p.refuse(allReleases, p.tok.start, "expected expression")
		}
	}
	if last == '.' && p.tok.kind != identifier && p.tok.kind != '{' && p.text() != "?" {
		p.refuse(allReleases, p.tok.start, "expected field name")
	}
}
