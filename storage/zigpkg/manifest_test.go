package zigpkg

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// zon writes a manifest that Zig 0.14 and later accept, with fields replaced, added,
// or left out where the value is empty.
func zon(fieldsAndValues ...string) string {
	fields := []string{
		"name", ".foo",
		"version", `"1.2.3"`,
		"fingerprint", "0x8c73652112345678",
		"paths", `.{""}`,
	}
	for i := 0; i < len(fieldsAndValues); i += 2 {
		at := slices.Index(fields, fieldsAndValues[i])
		if at < 0 {
			fields = append(fields, fieldsAndValues[i:i+2]...)
			continue
		}
		fields[at+1] = fieldsAndValues[i+1]
	}
	var b strings.Builder
	b.WriteString(".{\n")
	for i := 0; i < len(fields); i += 2 {
		if fields[i+1] != "" {
			fmt.Fprintf(&b, "    .%s = %s,\n", fields[i], fields[i+1])
		}
	}
	b.WriteString("}\n")
	return b.String()
}

// dep is a manifest with one dependency of the given fields.
func dep(fields string) string { return zon("dependencies", ".{ .d = .{ "+fields+" } }") }

const (
	newHash    = "foo-1.2.3-eFY0Em8AAABeV8ihTM5si41ADwJhcCOfBN0tkTNnrrTM"
	legacyHash = "12205cafe135b24f0f31f4cebe98bd1ddb3fc30b677671e7476ebf99e2d1e41179ca"
)

// manifestCases are also put to real Zig, by TestRealZig.
var manifestCases = []struct {
	name, src string
	usable    releases
	reason    string // part of the error, or of a refusal
}{
	{"all fields", zon("minimum_zig_version", `"0.14.0"`), from014, ""},
	{"empty file", "", 0, "1:1: expected top level expression to be a struct"},
	{"not a struct", `"foo"`, 0, "expected top level expression to be a struct"},
	{"list", `.{"foo"}`, 0, "expected top level expression to be a struct"},
	{"empty struct", ".{}", 0, "missing top-level 'name' field"},
	{"not closed", ".{ .name = .foo,", 0, "1:17: expected '}'"},
	{"more behind it", zon() + ".{}", 0, "expected end of file"},
	{"reference", "&" + zon(), 0, "struct"},
	{"number for a type", zon("paths", `1.0{"src"}`), from014, ""},
	{"number for a type, struct", zon("name", `"foo"`, "dependencies", `0x1{ .d = 1{ .path = "../d" } }`), allReleases &^ from016, ""},
	{"number before a number for a type", zon("paths", `1 1{"src"}`), 0, "list of strings"},

	// Lexical.
	{"byte order mark", "\xef\xbb\xbf" + zon(), from014, ""},
	{"byte order mark twice", "\xef\xbb\xbf\xef\xbb\xbf" + zon(), 0, "invalid token"},
	{"CRLF", strings.ReplaceAll("// c\n"+zon(), "\n", "\r\n"), from014, ""},
	{"CR between tokens", strings.ReplaceAll(zon(), "\n", "\r"), from014, ""},
	{"CR in comment", "// a\rb\n" + zon(), 0, `'\x0d'`},
	{"CR CR LF after comment", "// a\r\r\n" + zon(), 0, `'\x0d'`},
	{"comments", "// a\n////b\n//\n" + zon() + "// end", from014, ""},
	{"CR at the end of file", zon() + "// end\r", 0, `'\x0d'`},
	{"doc comment", "/// a\n" + zon(), 0, "document comment"},
	{"top-level doc comment", "//! a\n" + zon(), 0, "document comment"},
	{"doc comment behind", zon() + "/// a\n", 0, "document comment"},
	{"block comment", "/* a */" + zon(), 0, ""},
	{"TAB in comment", "// a\tb\n" + zon("name", `"foo"`), upTo013, `1:5: comment or literal contains invalid byte: '\t' (Zig 0.14 to 0.17)`},
	{"TAB in comment, enum name", "// a\tb\n" + zon(), 0, `'\t'`},
	{"TAB in string", zon("z", "\"a\tb\""), 0, `'\t'`},
	{"TAB in multiline string", zon("z", "\n\\\\a\tb\n", "name", `"foo"`), upTo013, `'\t'`},
	{"DEL in comment", "// \x7f\n" + zon(), 0, `'\x7f'`},
	{"form feed", "\f" + zon(), 0, "invalid token"},
	{"NUL in comment", "// \x00\n" + zon(), 0, `'\x00'`},
	{"NUL in string", zon("z", "\"\x00\""), 0, `'\x00'`},
	{"NUL between tokens", "\x00" + zon(), 0, "invalid token"},
	{"NUL at the end", zon() + "\x00", 0, "invalid token"},
	{"UTF-8", "// ünïcödé\n" + zon("name", `"foo"`), allReleases &^ from016, ""},
	{"not UTF-8 in comment", "// \xff\n" + zon("name", `"foo"`), zig014 | zig015, "invalid bytes (Zig 0.12 to 0.13)"},
	{"not UTF-8 in string", zon("z", "\"\xc3\""), from014, ""},
	{"surrogate in comment", "// \xed\xa0\x80\n" + zon("name", `"foo"`), zig014 | zig015, "invalid bytes"},
	{"line separator in string", zon("z", "\"\u2028\"", "name", `"foo"`), zig014 | zig015, "invalid bytes"},
	{"next line in comment", "// \u0085\n" + zon("name", `"foo"`), zig014 | zig015, "invalid bytes"},
	{"not UTF-8 between tokens", "\xff" + zon(), 0, "invalid token"},
	{"string over two lines", zon("z", "\"a\nb\""), 0, "does not end"},
	{"string not closed", `.{.name="a`, 0, "does not end"},
	{"string ends in backslash", `.{.name="a\`, 0, "does not end"},
	{"backslash before line end", ".{.name=\"a\\\n\"", 0, "does not end"},
	{"escapes", zon("version", `"1.\x32.\u{33}"`), from014, ""},
	{"bad escape where read", zon("version", `"\q"`), 0, "3:18: invalid escape character: 'q'"},
	{"bad escape, not ASCII", zon("version", `"\é"`), 0, `invalid escape character: '\u00c3'`},
	{"bad escape where ignored", zon("z", `"\q"`), from014, ""},
	{"one hex digit", zon("version", `"1.2.\x3"`), 0, "hex digits"},
	{"empty rune", zon("version", `"1.2.\u{}"`), 0, "hex digits"},
	{"rune without braces", zon("version", `"1.2.\u33"`), 0, "hex digits"},
	{"rune not closed", zon("version", `"1.2.\u{33"`), 0, "hex digits"},
	{"rune with junk", zon("version", `"1.2.\u{3x}"`), 0, "hex digits"},
	{"rune too large", zon("paths", `.{"\u{110000}"}`), 0, "scalar value"},
	{"rune far too large", zon("paths", `.{"\u{1000000000000000041}"}`), 0, "scalar value"},
	{"rune is a surrogate", zon("paths", `.{"\u{d800}"}`), 0, "scalar value"},
	{"rune with leading zeros", zon("version", `"1.2.\u{0000000033}"`), from014, ""},
	{"multiline string where ignored", zon("z", "\n\\\\a\n\\\\b\n"), from014, ""},
	{"multiline string where read", zon("version", "\n\\\\1.2.3\n"), 0, "expected string literal"},
	{"quoted field name", zon("name", "", `@"n\x61me"`, ".foo"), from014, ""},
	{"quoted field name, bad escape", zon(`@"\q"`, "1"), 0, "invalid escape"},
	{"keyword as field name", zon("error", "1"), 0, "expected field name"},
	{"former keyword as field name", zon("async", "1", "name", `"foo"`), zig015, "async is a keyword (Zig 0.12 to 0.14)"},
	{"quoted field name not closed", `A{.A={},.@"`, 0, "does not end"},
	{"builtin as field name", zon("@name", ".foo"), 0, "expected field name"},
	{"white space around", ". { . name = . foo , . version = \"1.2.3\" , . fingerprint = 0x8c73652112345678 , . paths = . { \"\" } }", from014, ""},
	{"no trailing comma", ".{.name=.foo,.version=\"1.2.3\",.fingerprint=0x8c73652112345678,.paths=.{\"\"}}", from014, ""},
	{"two commas", strings.Replace(zon(), ",", ",,", 1), 0, "expected field initializer"},
	{"missing comma", strings.Replace(zon(), ",", "", 1), 0, "expected enum literal"},
	{"type before braces", "Foo" + zon()[1:], from014, ""},
	{"types before braces", zon("paths", `[_][]const u8{"src"}`, "dependencies", "a.B{}"), from014, ""},
	{"dot behind type", "Foo" + zon(), 0, "struct"},
	{"reference to list", zon("paths", `&.{"src"}`), 0, "list of strings"},
	{"braces alone", zon()[1:], 0, "struct"},

	// Fields that Zig ignores.
	{"call", zon("z", "foo(1 + 2, a)"), from014, ""},
	{"condition", zon("z", "if (a) b else c"), from014, ""},
	{"bad number", zon("z", "0123"), from014, ""},
	{"slice", zon("z", "-x.y[1..2].*"), from014, ""},
	{"comparison", zon("z", "a == b"), from014, ""},
	{"import", zon("z", `@import("x").y.?`), from014, ""},
	{"number forms", zon("z", ".{ 1.5e-3, 0x1p+4, 1_000, 0b1, 0xFFFF, 'a', '\\'', '\\u{1f600}' }"), from014, ""},
	{"struct in list", zon("z", ".{ .a = .{ .b = 1 }, .c = .{ 1, .{} }, .d = .e }"), from014, ""},
	{"block", zon("z", "blk: { const a = 1; break :blk a; }"), from014, ""},
	{"no value", zon("z", " "), 0, "expected expression"},
	{"two values", zon("z", "1 2"), 0, "expected ',' after initializer"},
	{"two strings", zon("z", `"a" "b"`), 0, "expected ',' after initializer"},
	{"two assignments", zon("z", "1 .y = 2"), 0, "expected ',' after initializer"},
	{"bracket not closed", zon("z", "(1"), 0, "expected ')'"},
	{"bracket mismatched", zon("z", "(1]"), 0, "expected ')'"},
	{"bracket not opened", zon("z", "1)"), 0, "expected ',' after initializer"},
	{"comma doubled inside", zon("z", ".{1,,2}"), 0, "expected expression"},
	{"comma first inside", zon("z", ".{,1}"), 0, "expected expression"},
	{"dot before keyword", zon("z", ".error"), 0, "expected field name"},
	{"stray byte", zon("z", "#"), 0, "invalid token"},
	{"lone backslash", zon("z", `\a`), 0, "invalid token"},

	// name
	{"no name", zon("name", ""), 0, "missing top-level 'name' field"},
	{"string name", zon("name", `"foo"`), upTo013 | zig014 | zig015, "expected enum literal (Zig 0.16 to 0.17)"},
	{"string name, old", zon("name", `"foo"`, "fingerprint", ""), upTo013 | zig014 | zig015, "expected enum literal"},
	{"string name, not an identifier", zon("name", `"a.b"`, "fingerprint", ""), upTo013, "valid bare zig identifier (Zig 0.14 to 0.17)"},
	{"string name, digit first", zon("name", `"7zip"`, "fingerprint", ""), upTo013, "valid bare zig identifier"},
	{"string name, empty", zon("name", `""`, "fingerprint", ""), upTo013, "valid bare zig identifier"},
	{"string name, keyword", zon("name", `"error"`, "fingerprint", ""), upTo013, "valid bare zig identifier"},
	{"string name, former keyword", zon("name", `"async"`, "fingerprint", ""), upTo013 | zig015, "valid bare zig identifier (Zig 0.14)"},
	{"string name, 33 bytes", zon("name", `"`+strings.Repeat("a", 33)+`"`, "fingerprint", ""), upTo013, "name exceeds max length of 32"},
	{"enum name, 32 bytes", zon("name", "."+strings.Repeat("a", 32), "fingerprint", "0xcab11777_00000001"), from014, ""},
	{"enum name, 33 bytes", zon("name", "."+strings.Repeat("a", 33)), 0, "name exceeds max length of 32"},
	{"enum name, keyword", zon("name", ".error"), 0, "expected enum literal"},
	{"enum name, former keyword", zon("name", ".await", "fingerprint", ""), zig015, "await is a keyword"},
	{"enum name, primitive", zon("name", ".u32", "fingerprint", ""), zig014 | zig015, ""},
	{"enum name, underscore", zon("name", "._", "fingerprint", ""), zig014 | zig015, ""},
	{"enum name, quoted", zon("name", `.@"foo"`), 0, "valid bare zig identifier"},
	{"name is a number", zon("name", "1"), 0, "expected enum literal"},
	{"name is a path", zon("name", ".foo.bar"), 0, "expected enum literal"},
	{"name is concatenated", zon("name", `"foo" ++ "bar"`), 0, "expected string literal"},

	// version
	{"no version", zon("version", ""), 0, "missing top-level 'version' field"},
	{"version is a number", zon("version", "1.2"), 0, "expected string literal"},
	{"version with two numbers", zon("version", `"1.2"`), 0, "unable to parse semantic version: InvalidVersion"},
	{"version with v", zon("version", `"v1.2.3"`), 0, "InvalidVersion"},
	{"version with leading zero", zon("version", `"01.2.3"`), 0, "InvalidVersion"},
	{"pre-release with leading zero", zon("version", `"1.2.3-01"`), 0, "InvalidVersion"},
	{"version too large", zon("version", `"18446744073709551616.0.0"`), 0, "Overflow"},
	{"version with all parts", zon("version", `"1.2.3-rc.1.x-y+b.01"`), from014, ""},
	{"version with underscore", zon("version", `"1_0.0__0.0"`), 0, "InvalidVersion"},
	{"version with underscores", zon("version", `"1_0.1__0.0"`), from014, ""},
	{"version of 32 bytes", zon("version", `"1.0.0-`+strings.Repeat("a", 26)+`"`), from014, ""},
	{"version of 33 bytes", zon("version", `"1.0.0-`+strings.Repeat("a", 27)+`"`), 0, "version string length 33 exceeds maximum of 32"},
	{"version of 33 bytes, old", zon("version", `"1.0.0-`+strings.Repeat("a", 27)+`"`, "name", `"foo"`), upTo013, "exceeds maximum of 32 (Zig 0.14 to 0.17)"},
	{"minimum version malformed", zon("minimum_zig_version", `"0.14"`), 0, "InvalidVersion"},
	{"minimum version long", zon("minimum_zig_version", `"0.14.0-`+strings.Repeat("a", 99)+`"`), from014, ""},

	// fingerprint
	{"no fingerprint", zon("fingerprint", ""), zig014 | zig015, "missing top-level 'fingerprint' field (Zig 0.16 to 0.17)"},
	{"fingerprint decimal", zon("fingerprint", "10120543980345382520"), from014, ""},
	{"fingerprint octal", zon("fingerprint", "0o1061633122044215053170"), from014, ""},
	{"fingerprint binary", zon("fingerprint", "0b1000110001110011011001010010000100010010001101000101011001111000"), from014, ""},
	{"fingerprint with underscores", zon("fingerprint", "0x8C73_6521_1234_5678"), from014, ""},
	{"fingerprint of another name", zon("fingerprint", "0x8c73652212345678"), 0, "invalid fingerprint: 0x8c73652212345678; its high half must be 0x8c736521"},
	{"fingerprint of another name, string", zon("fingerprint", "1", "name", `"foo"`), upTo013, "invalid fingerprint: 0x1"},
	{"fingerprint id 0", zon("fingerprint", "0x8c73652100000000"), 0, "low half"},
	{"fingerprint id all ones", zon("fingerprint", "0x8c736521ffffffff"), 0, "low half"},
	{"fingerprint negative", zon("fingerprint", "-1"), 0, "expected integer literal"},
	{"fingerprint float", zon("fingerprint", "1.5"), 0, "bad integer literal"},
	{"fingerprint char", zon("fingerprint", "'a'"), 0, "expected integer literal"},
	{"fingerprint string, old", zon("fingerprint", `"a"`, "name", `"foo"`), upTo013, "expected integer literal (Zig 0.14 to 0.17)"},
	{"fingerprint over 64 bits", zon("fingerprint", "0x18c73652112345678"), 0, "found big_int"},
	{"fingerprint with upper case base", zon("fingerprint", "0X8c73652112345678"), 0, "bad integer literal"},
	{"fingerprint with leading zero", zon("fingerprint", "010120543980345382520"), 0, "bad integer literal"},
	{"fingerprint with underscore behind base", zon("fingerprint", "0x_8c73652112345678"), 0, "bad integer literal"},
	{"fingerprint with underscore behind zero", zon("fingerprint", "0_8"), 0, "bad integer literal"},
	{"fingerprint with two underscores", zon("fingerprint", "0x8c736521__12345678"), 0, "bad integer literal"},
	{"fingerprint with trailing underscore", zon("fingerprint", "0x8c73652112345678_"), 0, "bad integer literal"},

	// paths
	{"paths empty", zon("paths", ".{}"), 0, "expected paths expression to be a list of strings"},
	{"paths a struct", zon("paths", `.{ .a = "b" }`), 0, "list of strings"},
	{"paths a string", zon("paths", `"src"`), 0, "list of strings"},
	{"paths of enum literals", zon("paths", ".{ .a }"), 0, "expected string literal"},
	{"paths of sums", zon("paths", `.{ "a" ++ "b" }`), 0, "expected string literal"},
	{"paths without comma", zon("paths", `.{ "a" "b" }`), 0, "expected string literal"},
	{"paths not closed", `.{ .paths = .{ "a",`, 0, "expected '}'"},

	// dependencies
	{"dependencies empty", zon("dependencies", ".{}"), from014, ""},
	{"dependencies a list", zon("dependencies", ".{1}"), 0, "expected dependencies expression to be a struct"},
	{"dependency a string", zon("dependencies", `.{ .d = "x" }`), 0, "expected dependency expression to be a struct"},
	{"dependency by url", dep(`.url = "x", .hash = "` + newHash + `"`), from014, ""},
	{"dependency by path", dep(`.path = "../x"`), from014, ""},
	{"dependency with unknown field", dep(`.path = "x", .z = foo(1)`), from014, ""},
	{"dependency quoted", zon("dependencies", `.{ .@"a b" = .{ .path = "x" } }`), from014, ""},
	{"dependency without location", dep(""), 0, "dependency requires location field"},
	{"dependency with both", dep(`.url = "x", .path = "y"`), 0, "only one of 'url' and 'path'"},
	{"dependency with two urls", dep(`.url = "x", .url = "y"`), 0, "only one of 'url' and 'path'"},
	{"dependency with a bad url", dep(`.url = x`), 0, "expected string literal"},
	{"dependency lazy", dep(`.path = "x", .lazy = true, .lazy = false`), from014, ""},
	{"dependency lazy is a string", dep(`.path = "x", .lazy = "true"`), 0, "expected boolean"},
	{"dependency lazy is a word", dep(`.path = "x", .lazy = maybe`), 0, "expected boolean"},
	{"hash legacy", dep(`.url = "x", .hash = "` + legacyHash + `"`), zig014 | zig015, "invalid hash: incomplete (Zig 0.16 to 0.17)"},
	{"hash legacy, string name", zon("name", `"foo"`, "dependencies", `.{ .d = .{ .url = "x", .hash = "`+legacyHash+`"} }`), upTo013 | zig014 | zig015, ""},
	{"hash legacy, string name, short", zon("name", `"foo"`, "dependencies", `.{ .d = .{ .url = "x", .hash = "1220"} }`), zig014 | zig015, "invalid multihash value"},
	{"hash empty", dep(`.url = "x", .hash = ""`), zig014 | zig015, "invalid hash: short"},
	{"hash of 110 bytes", dep(`.url = "x", .hash = "a--` + strings.Repeat("a", 107) + `"`), from014, ""},
	{"hash of 111 bytes", dep(`.url = "x", .hash = "a--` + strings.Repeat("a", 108) + `"`), 0, "invalid hash: long"},
	{"hash without tail", dep(`.url = "x", .hash = "a-` + strings.Repeat("-", 44) + `"`), zig014 | zig015, "incomplete"},
}

func TestParseManifest(t *testing.T) {
	t.Parallel()
	for _, tt := range manifestCases {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m, err := ParseManifest([]byte(tt.src))
			var usable releases
			var reason string
			if err != nil {
				reason = err.Error()
			} else {
				usable, reason = m.usable, strings.Join(m.Refusals, "; ")
			}
			if usable != tt.usable {
				t.Errorf("usable with %v (%s), want %v", usable, reason, tt.usable)
			}
			if !strings.Contains(reason, tt.reason) {
				t.Errorf("reason: got %q, want one with %q", reason, tt.reason)
			}
		})
	}
}

func TestManifestFields(t *testing.T) {
	t.Parallel()
	m, err := ParseManifest([]byte(`.{
    .name = .x, // the last one counts
    .name = .foo,
    .version = "1_0.2.3-rc.1+b",
    .fingerprint = 0x8c73652112345678,
    .minimum_zig_version = "0.14.0",
    .paths = .{ "old" },
    .paths = .{ "src/", "build.zig.zon", "./src" },
    .dependencies = .{
        .a = .{ .path = "../a" },
        .@"b\x2dc" = .{ .url = "git+https://h/b", .hash = "` + newHash + `", .lazy = true },
    },
    .dependencies = .{ .a = .{ .path = "../a2" } },
}`))
	if err != nil {
		t.Fatal(err)
	}
	want := &Manifest{
		Name:              "foo",
		Version:           "10.2.3-rc.1+b",
		Fingerprint:       0x8c73652112345678,
		MinimumZigVersion: "0.14.0",
		Paths:             []string{"build.zig.zon", "old", "src"},
		Dependencies: []Dependency{
			{Name: "a", Path: "../a2"},
			{Name: "b-c", URL: "git+https://h/b", Hash: newHash, Lazy: true},
		},
		Refusals: m.Refusals,
		usable:   from014,
	}
	if !reflect.DeepEqual(m, want) {
		t.Errorf("got  %+v\nwant %+v", m, want)
	}
	if got, want := m.UsableWith(), []string{"0.14", "0.15", "0.16", "0.17"}; !slices.Equal(got, want) {
		t.Errorf("UsableWith: got %v, want %v", got, want)
	}
	if got, want := (*Manifest)(nil).UsableWith(), []string{"0.12", "0.13", "0.14", "0.15", "0.16", "0.17"}; !slices.Equal(got, want) {
		t.Errorf("UsableWith without build.zig.zon: got %v, want %v", got, want)
	}
}

func TestManifestWarnings(t *testing.T) {
	t.Parallel()
	tests := []struct{ paths, want string }{
		{`.{""}`, ""},
		{`.{"build.zig.zon"}`, ""},
		{`.{"src"}`, "paths do not include build.zig.zon"},
		{``, "missing top-level 'paths' field"},
	}
	for _, tt := range tests {
		m, err := ParseManifest([]byte(zon("paths", tt.paths)))
		if err != nil {
			t.Errorf("paths %s: %v", tt.paths, err)
			continue
		}
		got := strings.Join(m.Warnings, "; ")
		if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("paths %s: got warnings %q, want %q", tt.paths, got, tt.want)
		}
	}
}

func TestManifestTooLong(t *testing.T) {
	t.Parallel()
	src := append([]byte(zon()), strings.Repeat(" ", MaxManifestBytes)...)
	if _, err := ParseManifest(src); err == nil {
		t.Error("err = nil, want one about the length")
	}
	m, err := ParseManifest(src[:MaxManifestBytes])
	if err != nil || slices.Contains(m.UsableWith(), "0.16") || !slices.Contains(m.UsableWith(), "0.15") {
		t.Errorf("%v, %v, want none of 0.16 and later at the limit", m.UsableWith(), err)
	}
	if m, err = ParseManifest(src[:MaxManifestBytes-1]); err != nil || !slices.Contains(m.UsableWith(), "0.16") {
		t.Errorf("%v, %v, want all below the limit", m.UsableWith(), err)
	}
}

// Whatever its bytes, a manifest takes time in proportion to its length.
func TestManifestTime(t *testing.T) {
	t.Parallel()
	const size = MaxManifestBytes / 8
	var deps, paths, fields strings.Builder
	for i := range size / 32 {
		fmt.Fprintf(&deps, `.a%d=.{.url="",.hash=""},`, i)
		fmt.Fprintf(&paths, `"%d",`, i)
		fmt.Fprintf(&fields, `.paths=.{"%d"},`, i)
	}
	tests := []struct{ name, src string }{
		{"dependencies", zon("dependencies", ".{"+deps.String()+"}")},
		{"paths", zon("paths", ".{"+paths.String()+"}")},
		{"paths, one by one", zon("z", "1,"+fields.String()+".z = 1")},
		{"brackets", zon("z", strings.Repeat("(", size))},
		{"structs", zon("z", strings.Repeat(".{.a=", size/5))},
		{"escapes", zon("version", `"`+strings.Repeat(`\x31`, size/4)+`"`)},
		{"comments", strings.Repeat("//\t\n", size/4) + zon("name", `"foo"`)},
		{"comments inside", ". " + strings.Repeat("//\xff\n", size/4) + zon("name", `"foo"`)[1:]},
		{"dots", zon("version", `"`+strings.Repeat(".", size)+`"`)},
		{"commas", zon("z", ".{"+strings.Repeat("1,", size/2)+"}")},
	}
	for _, tt := range tests {
		start := time.Now()
		ParseManifest([]byte(tt.src))
		// It is a tenth of a second; anything quadratic takes minutes.
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("%s: got %v for %d bytes, want about a second at most", tt.name, took, len(tt.src))
		}
	}
}

// Each release that refuses a manifest has its reason, and no other has one.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, tt := range manifestCases {
		checkRefusals(t, []byte(tt.src))
	}
	got := Refusals([]byte(`.{ .name = "a b", .version = "1.0.0" }`))
	want := map[string]string{"0.14": "1:12: name must be a valid bare zig identifier", "0.15": "1:12: name must be a valid bare zig identifier",
		"0.16": "1:12: name must be a valid bare zig identifier", "0.17": "1:12: name must be a valid bare zig identifier"}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := Refusals(make([]byte, MaxManifestBytes+1)); len(got) != len(releaseNames) {
		t.Errorf("got %v of a file that is too long", got)
	}
}

func checkRefusals(t *testing.T, src []byte) {
	t.Helper()
	reasons := Refusals(src)
	m, err := ParseManifest(src)
	for _, release := range releaseNames {
		usable := err == nil && slices.Contains(m.UsableWith(), release)
		if why := reasons[release]; (why == "") != usable {
			t.Errorf("%.200q: Zig %s takes it: %v, and why not: %q", src, release, usable, why)
		}
	}
}

func FuzzParseManifest(f *testing.F) {
	for _, tt := range manifestCases {
		f.Add([]byte(tt.src))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		checkRefusals(t, src)
		m, err := ParseManifest(src)
		if (m == nil) != (err != nil) {
			t.Fatalf("got manifest %v and error %v, want one of them", m, err)
		}
		if err != nil {
			return
		}
		if len(m.UsableWith()) == 0 || m.Paths != nil && len(m.Paths) == 0 {
			t.Errorf("got usable %v, paths %q, want neither empty", m.UsableWith(), m.Paths)
		}
		h := Sum(m, []Entry{{Path: ManifestName, Size: int64(len(src))}})
		if err := ValidHash(h.Legacy); err != nil {
			t.Error(err)
		}
		if (h.Hash != "") != (m.usable&from014 != 0) {
			t.Errorf("hash %q of a manifest usable with %v", h.Hash, m.usable)
		}
		if h.Hash != "" {
			if err := ValidHash(h.Hash); err != nil {
				t.Errorf("%q: %v", h.Hash, err)
			}
		}
	})
}
