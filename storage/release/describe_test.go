package release

import (
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage/gitpack"
)

func TestReadmeDescribed(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ readme, want string }{
		{"# zig-clap\n\nA simple and easy to use command line argument parser library for Zig.\n\n## Features\n", "A simple and easy to use command line argument parser library for Zig."},
		{"# x\n[![CI](https://e.org/b.svg)](https://e.org/ci) [![Docs](a.svg)](b)\n\nIt does *many* `good` [things](b.md)\nfor you.\n", "It does many good things for you."},
		{"<p align=\"center\"><img src=\"logo.png\"></p>\n<h1 align=\"center\">The name of it here</h1>\n<p align=\"center\">A fast HTTP server for Zig</p>\n", "A fast HTTP server for Zig"},
		{"| a table | with | many | words |\n| - | - | - | - |\n| b | c | d | e |\n\nThen there is a sentence.", "Then there is a sentence."},
		{"- a list of many words\n\n> [!WARNING]\n> It is not ready for use\n\n    some code of four words\n\nThen there is a sentence.", "Then there is a sentence."},
		{"Copyright (c) 2020 Somebody of that name\n\nPermission is hereby granted, free of charge\n\nA library of good things.", "A library of good things."},
		{"Title of the thing here\n====\n\nDocumentation\n\nSee below.\n\nSo this one counts at last.", "So this one counts at last."},
		{"Zig 用のコマンドライン引数パーサー", "Zig 用のコマンドライン引数パーサー"},
		{"Tom &amp; Jerry are in it, &lt;b&gt; too.", "Tom & Jerry are in it, <b> too."},
		{"# Nothing\n\n[a](b)\n", ""},
		{"\xff\xfeonly four good words", "only four good words"},
		{"It is one sentence of some length that says what is to be said. " + strings.Repeat("And more of it. ", 20), "It is one sentence of some length that says what is to be said. And more of it. And more of it. And more of it. And more of it. And more of it. And more of it. And more of it. And more of it."},
		{strings.Repeat("longer words, ", 40), strings.TrimSuffix(strings.Repeat("longer words, ", 14), ", ") + "…"},
		{"# One\n\n## Two\n\nIt is what it is.", "It is what it is."},
		{"# One\n\n## Two\n\n## Install\n\nRun this command before that.", ""},
		{"# A package to try it with\n\n    code\n", "A package to try it with"},
		{"", ""},
	} {
		if got := describe([]byte(tt.readme)); got != tt.want {
			t.Errorf("%.60q is described as %q, want %q", tt.readme, got, tt.want)
		}
	}
	for _, part := range []string{"[", "*a_", "> ", "> - ", "[a](", "<div>", "![", "1. "} {
		began := time.Now()
		describe([]byte(strings.Repeat(part, maxRead/len(part))))
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%q takes %v", part, took)
		}
	}
}

func TestReadme(t *testing.T) {
	t.Parallel()
	files := []gitpack.File{{Path: "README", Mode: gitpack.ModeFile}, {Path: "README-zh.md", Mode: gitpack.ModeFile},
		{Path: "ReadMe.MD", Mode: gitpack.ModeFile}, {Path: "docs/README.md", Mode: gitpack.ModeFile}, {Path: "readme.markdown", Mode: gitpack.ModeDir}}
	if f, ok := Readme(files); !ok || f.Path != "ReadMe.MD" {
		t.Errorf("the README is %v", f)
	}
	if f, ok := Readme(files[3:]); ok {
		t.Errorf("%v is a README of the root", f)
	}
}
