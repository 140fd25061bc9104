package release

import (
	"os"
	"strings"
	"testing"
)

const (
	mit = "MIT License\n\nCopyright (c) 2020 A\n\nPermission is hereby granted, free of charge, to any person obtaining a copy\nof this software, to deal in it, subject to:\n\n" +
		"The above copyright notice and this permission notice shall be included in all\ncopies.\n"
	bsd = "Redistribution and use in source and binary forms, with or without\nmodification, are permitted provided that:\n\n"
)

func TestLicense(t *testing.T) {
	t.Parallel()
	ours, err := os.ReadFile("../../LICENSE")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ text, want string }{
		{string(ours), "MIT"},
		{mit, "MIT"},
		{"// SPDX-License-Identifier: Apache-2.0\n", "Apache-2.0"},
		{"                                 Apache License\n                           Version 2.0, January 2004\n", "Apache-2.0"},
		{"GNU GENERAL PUBLIC LICENSE\n   Version 3, 29 June 2007\n", "GPL-3.0"},
		{"GNU LESSER GENERAL PUBLIC LICENSE\n   Version 2.1, February 1999\n", "LGPL-2.1"},
		{"Mozilla Public License Version 2.0\n====\n", "MPL-2.0"},
		{bsd + "Neither the name of A nor of B", "BSD-3-Clause"},
		{bsd, "BSD-2-Clause"},
		{"Boost Software License - Version 1.0 - August 17th, 2003", "BSL-1.0"},
		{"This is free and unencumbered software released into the public domain.", "Unlicense"},
		{"This software is provided ‘as-is’, without any", ""},
		{"This software is provided 'as-is', without any express or implied\nwarranty. 2. Altered source versions must be plainly marked as such", "Zlib"},
		{"Permission to use, copy, modify, and/or distribute this software for any\npurpose with or without fee is hereby granted, provided that the above\ncopyright notice", "ISC"},
		{"Permission to use, copy, modify, and/or distribute this software for any\npurpose with or without fee is hereby granted.", "0BSD"},
		{"All rights reserved. MIT is a place.", ""},
		{"", ""},
	} {
		if got := License(strings.NewReader(tt.text)); got != tt.want {
			t.Errorf("%.60q is %q, want %q", tt.text, got, tt.want)
		}
	}
	for name, want := range map[string]bool{"LICENSE": true, "license.md": true, "COPYING": true, "LICENSE-MIT": true, "Licence.txt": true, "UNLICENSE": true,
		"licenses": false, "license/x": false, "src/LICENSE": false, "LICENSING.md": false, "copyright": false} {
		if IsLicense(name) != want {
			t.Errorf("%s is a licence: want %v", name, want)
		}
	}
	objects, tree := listing(t, map[string]string{"src/LICENSE": "SPDX-License-Identifier: ISC\n", "COPYING@": "LICENSE", "LICENSE": "unknown", "LICENSE-MIT": mit})
	if zig, err := newZigFiles().describe(objects, tree); err != nil || zig.License != "MIT" {
		t.Errorf("the tree has the licence %q, %v", zig.License, err)
	}
}
