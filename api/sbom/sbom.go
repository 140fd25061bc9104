// Package sbom writes a dependency tree as a software bill of materials, in CycloneDX 1.6.
package sbom

import (
	"cmp"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/uuid"

	"github.com/francescobianco/packbase/api/wire"
)

// MediaType is what Write writes.
const MediaType = "application/vnd.cyclonedx+json; version=1.6"

// rootRef is the project itself. No package has this hash.
const rootRef = "project"

// Write writes the tree, whose packages are those of base: the server's address, without a slash at its end. The same
// revision gives the same bytes.
//
// A package is a component under its Zig hash, with its commit, its URLs and the SHA-256 of the tarball that base
// serves. One that is not stored is there, too, and says why.
func Write(w io.Writer, t wire.TreeInfo, base string) error {
	bom := cdx.NewBOM()
	bom.SerialNumber = "urn:uuid:" + uuid.NewSHA1(uuid.NameSpaceURL, fmt.Appendf(nil, "%s/api/trees/%s", base, t.Name)).String()
	bom.Version = t.Revision
	bom.Metadata = &cdx.Metadata{
		Timestamp: t.UpdatedAt.UTC().Format(time.RFC3339),
		Tools:     &cdx.ToolsChoice{Components: &[]cdx.Component{{Type: cdx.ComponentTypeApplication, Name: "packbase"}}},
		Component: &cdx.Component{BOMRef: rootRef, Type: cdx.ComponentTypeApplication, Name: t.Name},
	}
	components := make([]cdx.Component, len(t.Packages))
	below := map[string][]string{rootRef: nil}
	for i, n := range t.Packages {
		components[i] = component(n, base)
		if below[n.Hash] == nil {
			below[n.Hash] = nil // each is listed, with or without any
		}
		for _, parent := range n.Parents {
			parent = cmp.Or(parent, rootRef)
			below[parent] = append(below[parent], n.Hash)
		}
	}
	bom.Components = &components
	bom.Dependencies = dependencies(below)
	return cdx.NewBOMEncoder(w, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false).EncodeVersion(bom, cdx.SpecVersion1_6)
}

func dependencies(below map[string][]string) *[]cdx.Dependency {
	var all []cdx.Dependency
	for ref, on := range below {
		slices.Sort(on)
		on = slices.Compact(on)
		d := cdx.Dependency{Ref: ref}
		if len(on) > 0 {
			d.Dependencies = &on
		}
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b cdx.Dependency) int { return strings.Compare(a.Ref, b.Ref) })
	return &all
}

func component(n wire.TreeNode, base string) cdx.Component {
	c := cdx.Component{BOMRef: n.Hash, Type: cdx.ComponentTypeLibrary, Name: n.Hash, Scope: cdx.ScopeRequired}
	if n.Lazy {
		c.Scope = cdx.ScopeOptional
	}
	properties := []cdx.Property{{Name: "packbase:zig-hash", Value: n.Hash}, {Name: "packbase:state", Value: n.State}}
	if n.Reason != "" {
		properties = append(properties, cdx.Property{Name: "packbase:missing", Value: n.Reason})
	}
	var refs []cdx.ExternalReference
	for _, u := range n.URLs {
		kind := cdx.ERTypeDistribution
		if strings.HasPrefix(u, "git+") {
			kind = cdx.ERTypeVCS
		}
		refs = append(refs, cdx.ExternalReference{Type: kind, URL: u})
	}
	if src := n.Source; src != nil {
		c.Licenses = license(src.License)
		c.Name, c.Version = cmp.Or(src.Name, src.Package, n.Hash), cmp.Or(src.Version, src.Tag, src.Commit)
		refs = append(refs, cdx.ExternalReference{Type: cdx.ERTypeDistribution, URL: base + "/z/" + n.Hash + ".tar.gz",
			Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: src.SHA256}}})
		for name, value := range map[string]string{"package": src.Package, "tag": src.Tag, "commit": src.Commit} {
			if value != "" {
				properties = append(properties, cdx.Property{Name: "packbase:" + name, Value: value})
			}
		}
	}
	c.PackageURL = packageURL(n, c)
	slices.SortFunc(properties, func(a, b cdx.Property) int { return strings.Compare(a.Name, b.Name) })
	c.Properties, c.ExternalReferences = &properties, &refs
	return c
}

// license says what the licence is, by its name: that it is nothing else nobody has read.
func license(id string) *cdx.Licenses {
	if id == "" {
		return nil
	}
	return &cdx.Licenses{{License: &cdx.License{Name: id}}}
}

// packageURL names the package as scanners know it: purl has no type for Zig, so it is GitHub's, by its commit, or a
// generic one.
func packageURL(n wire.TreeNode, c cdx.Component) string {
	commit := ""
	if n.Source != nil {
		commit = n.Source.Commit
	}
	for _, raw := range n.URLs {
		u, err := url.Parse(strings.TrimPrefix(raw, "git+"))
		if err != nil {
			continue
		}
		owner, repo, _ := strings.Cut(strings.Trim(u.Path, "/"), "/")
		repo, _, _ = strings.Cut(repo, "/")
		if u.Host == "github.com" && repo != "" && commit != "" {
			return "pkg:github/" + escape(strings.ToLower(owner)) + "/" + escape(strings.ToLower(strings.TrimSuffix(repo, ".git"))) + "@" + commit
		}
	}
	purl := "pkg:generic/" + escape(c.Name)
	if c.Version != "" {
		purl += "@" + escape(c.Version)
	}
	if len(n.URLs) > 0 {
		kind := "download_url"
		if strings.HasPrefix(n.URLs[0], "git+") {
			kind = "vcs_url"
		}
		purl += "?" + kind + "=" + escape(n.URLs[0])
	}
	return purl
}

func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
