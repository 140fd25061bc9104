package ingest

import (
	"errors"
	"slices"
	"testing"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/catalog"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/gitpack"
)

// What is wanted of what upstream has, and why nothing is.
func TestChoose(t *testing.T) {
	t.Parallel()
	id := func(b byte) gitpack.OID { return gitpack.OID{b} }
	one, two := id(1), id(2)
	tagged := func(has sourceRefs) sourceRefs { has.tags["v1"] = one; return has }
	branched := func(has sourceRefs) sourceRefs { has.branches["main"] = two; return has }
	misnamed := func(has sourceRefs) sourceRefs {
		has.rejected = []storage.RejectedTag{{Tag: "a..b", Code: "tag_name"}}
		return has
	}
	limits := Limits{Tags: 1}
	none, some := 0, 1
	for what, tt := range map[string]struct {
		has  sourceRefs
		req  Request
		want []gitpack.OID
		code string
	}{
		"nothing":                          {has: newSourceRefs(), code: "no_tags"},
		"a branch that nobody follows":     {has: branched(newSourceRefs()), code: "no_tags"},
		"a branch that the policy wants":   {has: branched(newSourceRefs()), req: Request{Policy: catalog.Policy{Branches: catalog.Patterns{"m*"}}}, want: []gitpack.OID{two}},
		"a branch that is here":            {has: branched(newSourceRefs()), req: Request{Branches: []string{"main"}}, want: []gitpack.OID{two}},
		"a branch whose tip is here":       {has: branched(newSourceRefs()), req: Request{Branches: []string{"main"}, Commits: []string{two.String()}}},
		"tags that cannot keep the name":   {has: misnamed(newSourceRefs())},
		"a tag":                            {has: tagged(newSourceRefs()), want: []gitpack.OID{one}},
		"a tag that is here":               {has: tagged(newSourceRefs()), req: Request{Released: map[string]string{"v1": two.String()}}},
		"a tag that was refused":           {has: tagged(newSourceRefs()), req: Request{Rejected: map[string]string{"v1": one.String()}}},
		"a tag that was refused as it was": {has: tagged(newSourceRefs()), req: Request{Rejected: map[string]string{"v1": two.String()}}, want: []gitpack.OID{one}},
		"a tag, no policy wants it":        {has: tagged(newSourceRefs()), req: Request{Policy: catalog.Policy{Tags: catalog.Patterns{"w*"}}}},
		"too many tags":                    {has: tagged(misnamed(newSourceRefs())), code: "too_many_tags"},
		"room for it":                      {has: tagged(newSourceRefs()), req: Request{MaxNew: &some}, want: []gitpack.OID{one}},
		"no room for it":                   {has: tagged(newSourceRefs()), req: Request{MaxNew: &none}, code: "quota_releases"},
		"no room, and nothing new":         {has: tagged(newSourceRefs()), req: Request{MaxNew: &none, Released: map[string]string{"v1": one.String()}}},
		"refused, and nothing new":         {has: misnamed(newSourceRefs()), req: Request{Refuse: fault.New("quota_bytes", "full")}},
		"refused":                          {has: tagged(newSourceRefs()), req: Request{Refuse: fault.New("quota_bytes", "full")}, code: "quota_bytes"},
		"the tag that is asked for":        {has: branched(tagged(newSourceRefs())), req: Request{Target: "v1"}, want: []gitpack.OID{one}},
		"the branch that is asked for":     {has: branched(tagged(newSourceRefs())), req: Request{Target: "main"}, want: []gitpack.OID{two}},
		"its tip is here":                  {has: branched(tagged(newSourceRefs())), req: Request{Target: "main", Commits: []string{two.String()}}},
		"a tag of a commit that is here":   {has: tagged(newSourceRefs()), req: Request{Target: "v1", Commits: []string{one.String()}}, want: []gitpack.OID{one}},
		"neither tag nor branch":           {has: tagged(newSourceRefs()), req: Request{Target: "v2"}, code: "no_such_ref"},
		"a commit that no ref names":       {has: tagged(newSourceRefs()), req: Request{Target: id(9).String()}, want: []gitpack.OID{id(9)}},
	} {
		tt.req.Limits = limits
		_, wants, err := choose(tt.req, tt.has)
		code := ""
		if e := (*fault.Error)(nil); errors.As(err, &e) {
			code = e.Code
		}
		var got []gitpack.OID
		for _, w := range wants {
			got = append(got, w.OID)
		}
		if code != tt.code || err != nil && code == "" || code == "" && !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, %v, want %v and %q", what, got, err, tt.want, tt.code)
		}
	}
}
