package zigpkg

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

var buildCases = []struct {
	name, src string
	want      Build
}{
	{"nothing", "", Build{}},
	{"as zig init writes it", `
		//! A file.
		/// How it is built.
		pub fn build(b: *std.Build) void {
			const target = b.standardTargetOptions(.{});
			const optimize = b.standardOptimizeOption(.{});
			const mod = b.addModule("clap", .{ .root_source_file = b.path("clap.zig") }); // b.addModule("comment", .{})
			_ = mod;
		}`, Build{Modules: []string{"clap"}, Target: true, Optimize: true}},
	{"modules in other ways", `
		_ = b.addModule( "a", .{}); _ = b.addModule("a", .{});
		b.modules.put(b.allocator, "b", m) catch @panic("OOM");
		try b.modules.put("c", m);
		map.put("no", 1);
		exe.addModule("no", dep.module("no"));
		const s = "b.addModule(\"no\")";
		_ = b.addModule(name, .{});
		const named = "n";
		_ = b.addModule(named, .{});
		_ = b.addModule("d \"e", .{});`, Build{Modules: []string{"a", "b", "c", "n", `d "e`}}},
	{"names that are not what is seen", "b.addModule(\"a\u202Eb\"); b.addModule(\"a\\u{200b}b\"); b.addModule(\"a\\x1bb\"); b.addModule(\" a\"); const c = \"\\n\"; b.addModule(c); b.addModule(\"" +
		strings.Repeat("a", maxBuilt+1) + "\"); b.option(bool, \"o\u2066\", \"x\"); b.option(bool, \"o\", \"x\u202e\\x1b[2Jy\\n z\");", Build{Options: []Option{{"o", "bool", "x\uFFFD\uFFFD[2Jy z"}}}},
	{"options", `
		const tls = b.option(bool, "openssl", "Use the system's openssl") orelse false;
		const m = b.option(enum { a, b }, "mode", "One, or two");
		const f = b.option([]const []const u8, "test-filter",
			\\Only tests
			\\  with this name
		) orelse &.{};
		const n = b.option(std.SemanticVersion, "version", about);
		const again = b.option(u8, "openssl", "twice");
		options.addOption(bool, "no", false);
		_ = b.option(bool, name, "no");
		_ = b.option(bool);`, Build{Options: []Option{
		{"openssl", "bool", "Use the system's openssl"}, {"mode", "enum { a, b }", "One, or two"},
		{"test-filter", "[]const []const u8", "Only tests with this name"}, {"version", "std.SemanticVersion", ""},
	}}},
	{"no Zig", "\xff\xfe b.addModule(\"x\", `~§ b.option(bool, \"y\", \"z\") \"unended b.addModule(\"n\")",
		Build{Modules: []string{"x"}, Options: []Option{{"y", "bool", "z"}}}},
}

func TestScanBuild(t *testing.T) {
	t.Parallel()
	for _, tt := range buildCases {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := ScanBuild([]byte(tt.src)); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

// What upstream writes takes neither long nor much.
func TestScanBuildOfMuch(t *testing.T) {
	t.Parallel()
	for _, part := range []string{`b.addModule("x`, `b.option(`, `b.option(bool, "`, "((((", `"`, "//", `\\`, `b.option([[[[[[,`, `@"`, "'", "\xc3"} {
		src := bytes.Repeat([]byte(part), MaxBuildBytes/len(part))
		for i := range src { // no two alike
			if src[i] == 'x' {
				src[i] = byte('a' + i%26)
			}
		}
		start := time.Now()
		checkBuild(t, src)
		if took := time.Since(start); took > 5*time.Second { // on a slow machine
			t.Errorf("%q again and again took %v", part, took)
		}
	}
	if got := ScanBuild(make([]byte, MaxBuildBytes+1)); !reflect.DeepEqual(got, Build{}) {
		t.Errorf("got %v of a file that is too long", got)
	}
}

func checkBuild(t *testing.T, src []byte) {
	t.Helper()
	b := ScanBuild(src)
	if len(b.Modules) > maxModules || len(b.Options) > maxOptions {
		t.Fatalf("%d modules and %d options, want at most %d and %d", len(b.Modules), len(b.Options), maxModules, maxOptions)
	}
	texts := append([]string{}, b.Modules...)
	for _, o := range b.Options {
		if o.Name == "" {
			t.Error("an option without a name")
		}
		texts = append(texts, o.Name, o.Type, o.Text)
	}
	for _, text := range texts {
		if !utf8.ValidString(text) || strings.ContainsAny(text, "\x00\n") || len(text) > maxBuilt+len("…") {
			t.Errorf("%q is no text of a line", text)
		}
	}
}

func FuzzScanBuild(f *testing.F) {
	for _, tt := range buildCases {
		f.Add([]byte(tt.src))
	}
	f.Fuzz(func(t *testing.T, src []byte) { checkBuild(t, src) })
}
