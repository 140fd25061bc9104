package release

import (
	"bytes"
	"runtime"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/storage/zigpkg"
)

// A manifest does not become a gigabyte of memory, whatever its values are; the
// fullest that Encode writes is read.
func TestParseDenseManifest(t *testing.T) {
	const size = 8 << 20
	for name, doc := range map[string]string{
		"objects":    `{"packbase_manifest":1,"git":{"entries":[` + strings.Repeat("{},", size/3) + `{}]}}`,
		"modules":    `{"packbase_manifest":1,"submodules":[` + strings.Repeat("{},", size/3) + `{}]}`,
		"strings":    `{"packbase_manifest":1,"git":{"tags":[` + strings.Repeat(`"",`, size/3) + `""]}}`,
		"long":       `{"packbase_manifest":1,"zig":{"dependencies":[` + strings.Repeat(`{"name":"","url":"","lazy":true,"path":"/"},`, MaxManifestSize/50) + `{}]}}`,
		"numbers":    `{"packbase_manifest":1,"zig":{"warnings":[` + strings.Repeat("0,", size/2) + `0]}}`,
		"after text": `{"packbase_manifest":1,"tag":"\\\"","git":{"entries":[` + strings.Repeat("{},", size/3) + `{}]}}`,
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := ParseManifest([]byte(doc))
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; err == nil || took > 4*uint64(len(doc)) {
			t.Errorf("%s: %d bytes took %d, %v", name, len(doc), took, err)
		}
	}
	m := Manifest{Version: ManifestVersion, Tag: strings.Repeat("{,", 1<<20), Git: Git{Tags: make([][]byte, 1000)}}
	for range 10_000 {
		m.Git.Entries = append(m.Git.Entries, TreeEntry{Path: "{", Mode: "40000"})
		m.Submodules = append(m.Submodules, Submodule{Path: ","})
		m.Zig.Dependencies = append(m.Zig.Dependencies, zigpkg.Dependency{})
		m.Zig.Warnings = append(m.Zig.Warnings, "")
	}
	raw, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseManifest(raw)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := got.Encode(); err != nil || !bytes.Equal(again, raw) {
		t.Errorf("the fullest manifest is not read as it was written: %v", err)
	}
}
