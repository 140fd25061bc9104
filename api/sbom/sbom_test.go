package sbom

import (
	"bytes"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"

	"github.com/francescobianco/packbase/api/wire"
)

var tree = wire.TreeInfo{
	Tree: wire.Tree{Name: "app", Revision: 3, UpdatedAt: time.Unix(1_700_000_000, 0)},
	Packages: []wire.TreeNode{
		{Hash: "zap-0.1.0-aaaa", URLs: []string{"git+https://github.com/zigzap/ZAP.git?ref=v0.1.0#" + strings.Repeat("c", 40)}, Parents: []string{""}, State: "stored",
			Source: &wire.TreeSource{Kind: "release", Package: "zap", Tag: "v0.1.0", Commit: strings.Repeat("c", 40), Name: "zap", Version: "0.1.0", License: "MIT", SHA256: strings.Repeat("a", 64)}},
		{Hash: "N-V-__8AAAA", URLs: []string{"https://ex.example/lib%201+2.tar.gz"}, Parents: []string{"zap-0.1.0-aaaa", ""}, Lazy: true, State: "hole", Reason: "404"},
	},
}

func TestWrite(t *testing.T) {
	var first, second bytes.Buffer
	for _, w := range []*bytes.Buffer{&first, &second} {
		if err := Write(w, tree, "https://packbase.example"); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the same tree gives other bytes")
	}
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(&first, cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	if bom.SpecVersion != cdx.SpecVersion1_6 || bom.Version != 3 {
		t.Errorf("spec %v, version %d", bom.SpecVersion, bom.Version)
	}
	zap, hole := (*bom.Components)[0], (*bom.Components)[1]
	if want := "pkg:github/zigzap/zap@" + strings.Repeat("c", 40); zap.PackageURL != want || zap.Name != "zap" || zap.Version != "0.1.0" {
		t.Errorf("zap is %s %s %s, want %s", zap.Name, zap.Version, zap.PackageURL, want)
	}
	if zap.Licenses == nil || (*zap.Licenses)[0].License.Name != "MIT" || hole.Licenses != nil {
		t.Errorf("the licences are %+v and %+v, want MIT and none", zap.Licenses, hole.Licenses)
	}
	refs := *zap.ExternalReferences
	if last := refs[len(refs)-1]; last.URL != "https://packbase.example/z/zap-0.1.0-aaaa.tar.gz" || (*last.Hashes)[0].Value != strings.Repeat("a", 64) {
		t.Errorf("zap is to be had at %+v", last)
	}
	if want := "pkg:generic/N-V-__8AAAA?download_url=https%3A%2F%2Fex.example%2Flib%25201%2B2.tar.gz"; hole.PackageURL != want || hole.Scope != cdx.ScopeOptional {
		t.Errorf("the hole is %s, %s, want %s", hole.PackageURL, hole.Scope, want)
	}
	on := map[string][]string{}
	for _, d := range *bom.Dependencies {
		on[d.Ref] = nil
		if d.Dependencies != nil {
			on[d.Ref] = *d.Dependencies
		}
	}
	if len(on) != 3 || len(on[rootRef]) != 2 || len(on[zap.BOMRef]) != 1 || on[zap.BOMRef][0] != hole.BOMRef {
		t.Errorf("dependencies are %v", on)
	}
}
