package api_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/francescobianco/packbase/api/wire"
)

// Renovate finds the tags of a package, their dates and commits.
func TestVersions(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	all := g.publish("hello", tagged{tag: "v1.0.0", files: files{"a": "1"}}, tagged{tag: "v1.1.0", annotated: true, files: files{"a": "2"}}, tagged{files: files{"a": "3"}})
	var got wire.Versions
	g.must(json.Unmarshal(g.get("/api/versions/hello").body, &got))
	want := []wire.Version{{Version: "v1.0.0", ReleaseTimestamp: all[0].CommitTime.UTC(), Digest: all[0].CommitOID}, {Version: "v1.1.0", ReleaseTimestamp: all[1].CommitTime.UTC(), Digest: all[1].CommitOID}}
	if !slices.Equal(got.Releases, want) {
		t.Errorf("versions %+v, want %+v", got.Releases, want)
	}
	if up := upstreamOf(t, "hello"); got.SourceURL != up.Canonical || got.Homepage != "http://"+g.addr+"/hello" {
		t.Errorf("from %q, page %q", got.SourceURL, got.Homepage)
	}
}
