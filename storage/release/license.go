package release

import (
	"io"
	"path"
	"regexp"
	"strings"

	"github.com/francescobianco/packbase/storage/gitpack"
)

// maxLicense is the most bytes of a licence's file that are read.
const maxLicense = 64 << 10

// IsLicense reports whether a file in the root of a package has its licence, by
// the name that forges go by.
func IsLicense(name string) bool {
	name = strings.ToLower(name)
	base := strings.TrimSuffix(name, path.Ext(name))
	switch {
	case strings.Contains(name, "/"):
		return false
	case base == "license", base == "licence", base == "copying", base == "unlicense":
		return true
	}
	return strings.HasPrefix(name, "license-") || strings.HasPrefix(name, "licence-") || strings.HasPrefix(name, "license.") || strings.HasPrefix(name, "copying.")
}

// licensed returns the SPDX id of the first licence in the root of a tree that
// is known, "" if none is.
func licensed(objects *gitpack.Objects, tree gitpack.Listing) string {
	for _, f := range tree.Files {
		if !f.IsRegular() || !IsLicense(f.Path) {
			continue
		}
		body, err := objects.Open(f.OID)
		if err != nil {
			return "" // a convenience, not worth a release
		}
		if id := License(body); id != "" {
			return id
		}
	}
	return ""
}

var (
	spdx   = regexp.MustCompile(`(?m)SPDX-License-Identifier:[ \t]*([A-Za-z0-9.+-]{1,64})[ \t]*$`)
	spaces = regexp.MustCompile(`[^a-z0-9.,'"]+`)
)

// licenses has the words by which a licence is known, between bars. The first
// that has all of them is it.
var licenses = []struct {
	id, words string
}{
	{"AGPL-3.0", "gnu affero general public license version 3"},
	{"LGPL-3.0", "gnu lesser general public license version 3"},
	{"LGPL-2.1", "gnu lesser general public license version 2.1"},
	{"GPL-3.0", "gnu general public license version 3"},
	{"GPL-2.0", "gnu general public license version 2"},
	{"MPL-2.0", "mozilla public license version 2.0"},
	{"EPL-2.0", "eclipse public license v 2.0"},
	{"EUPL-1.2", "european union public licence v. 1.2"},
	{"Apache-2.0", "apache license version 2.0"},
	{"BSL-1.0", "boost software license version 1.0"},
	{"CC0-1.0", "cc0 1.0 universal"},
	{"Unlicense", "this is free and unencumbered software released into the public domain"},
	{"MIT", "permission is hereby granted, free of charge, to any person obtaining a copy|the above copyright notice and this permission notice"},
	{"MIT-0", "permission is hereby granted, free of charge, to any person obtaining a copy"},
	{"ISC", "permission to use, copy, modify, and or distribute this software for any purpose with or without fee is hereby granted, provided that the above copyright notice"},
	{"0BSD", "permission to use, copy, modify, and or distribute this software for any purpose with or without fee is hereby granted."},
	{"Zlib", "this software is provided 'as is', without any express or implied warranty.|altered source versions must be plainly marked"},
	{"BSD-3-Clause", "redistribution and use in source and binary forms, with or without modification, are permitted|neither the name"},
	{"BSD-2-Clause", "redistribution and use in source and binary forms, with or without modification, are permitted"},
	{"WTFPL", "do what the fuck you want to public license"},
}

// License returns the SPDX id of a licence's text, by its own words; "" for one
// that is not known. It does not say that the text is nothing else.
func License(r io.Reader) string {
	raw, err := io.ReadAll(io.LimitReader(r, maxLicense))
	if err != nil {
		return ""
	}
	if said := spdx.FindSubmatch(raw); said != nil {
		return string(said[1])
	}
	text := strings.ReplaceAll(strings.ToLower(string(raw)), ", version", " version")
	text = spaces.ReplaceAllString(strings.ReplaceAll(text, "’", "'"), " ")
	for _, l := range licenses {
		fits := true
		for words := range strings.SplitSeq(l.words, "|") {
			fits = fits && strings.Contains(text, words)
		}
		if fits {
			return l.id
		}
	}
	return ""
}
