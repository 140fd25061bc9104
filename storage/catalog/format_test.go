package catalog

import (
	"errors"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/storage/fault"
)

// Whatever a catalog lists, reading it takes no more memory than some times its
// length, and ends with a word that says what is wrong.
func TestDenseCatalog(t *testing.T) {
	const size = 8 << 20
	for name, tt := range map[string]struct{ doc, code string }{
		"numbers": {`{"protocol":"v1","packages":[` + strings.Repeat("0,", size/2) + `0]}`, "catalog_too_large"},
		"objects": {`{"protocol":"v1","packages":[` + strings.Repeat("{},", size/3) + `{}]}`, "catalog_too_large"},
		"an id":   {`{"protocol":"v1","packages":[{"id":[` + strings.Repeat("{},", size/3) + `{}]}]}`, ""},
		"no list": {`{"protocol":"v1","packages":{"a":1}}`, "catalog_malformed"},
		"null":    {`{"protocol":"v1","packages":null}`, "catalog_empty"},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Parse([]byte(tt.doc))
		runtime.ReadMemStats(&after)
		code := ""
		if e := (*fault.Error)(nil); errors.As(err, &e) {
			code = e.Code
		}
		if code != tt.code || err != nil && code == "" {
			t.Errorf("%s: %v, want %q", name, err, tt.code)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 8*size {
			t.Errorf("%s: %d bytes took %d", name, len(tt.doc), took)
		}
	}
	entries, err := Parse([]byte(`{"protocol":"v1","packages":[{"id":7,"repository":{"url":"https://git.example/a"}},{"id":"x","repository":{"url":"https://git.example/b"}},
		{"id":null},{"id":{}},7]}`))
	if err != nil || len(entries) < 3 || entries[0].ID != "7" || entries[1].ID != "x" || entries[0].Problem != "" || entries[2].Problem == "" {
		t.Errorf("entries: %+v, %v", entries, err)
	}
}

// A policy is read as a whole, or the entry is not used: half a policy mirrors
// what nobody wanted.
func TestPolicies(t *testing.T) {
	for policy, want := range map[string]struct {
		policy  Policy
		problem string
	}{
		`{}`: {}, `null`: {},
		`{"tags":"v*","branches":["stable","release/*"],"refresh_interval_seconds":3600,"retention":{"tags":10},"archive_format":"tar_gz"}`: {
			policy: Policy{Tags: Patterns{"v*"}, Branches: Patterns{"stable", "release/*"}, Refresh: 3600, Retention: Retention{Tags: 10}, Format: "tar_gz"}},
		`{"tag":"v*"}`:                     {problem: "unknown field"},
		`{"exclude":["docs"]}`:             {problem: "unknown field"},
		`{"tags":7}`:                       {problem: "packbase"},
		`"v*"`:                             {problem: "packbase"},
		`{"tags":"v[1"}`:                   {problem: "pattern of tags"},
		`{"tags":""}`:                      {problem: "pattern of tags"},
		`{"branches":["main","a[b"]}`:      {problem: "pattern of branches"},
		`{"refresh_interval_seconds":-1}`:  {problem: "refresh_interval_seconds"},
		`{"refresh_interval_seconds":1e9}`: {problem: "refresh_interval_seconds"},
		`{"retention":{"tags":-1}}`:        {problem: "retention"},
		`{"archive_format":"zip"}`:         {problem: "archive_format"},
		`{"tags":[` + strings.Repeat(`"v*",`, 100) + `"v*"]}`: {problem: "101 patterns"},
	} {
		entries, err := Parse([]byte(`{"protocol":"v1","packages":[{"id":"a","repository":{"url":"https://git.example/a"},"packbase":` + policy + `}]}`))
		if err != nil {
			t.Errorf("%.60s: %v", policy, err)
			continue
		}
		e := entries[0]
		if !reflect.DeepEqual(e.Policy, want.policy) || !strings.Contains(e.Problem, want.problem) || (e.Problem == "") != (want.problem == "") {
			t.Errorf("%.60s: %+v with %q, want %+v with %q", policy, e.Policy, e.Problem, want.policy, want.problem)
		}
	}
	for name, want := range map[string]bool{"v1.0.0": true, "w1": false, "rel/v1": false, "": false} {
		if got := (Patterns{"x", "v*"}).Match(name); got != want {
			t.Errorf("%q matches: %v", name, got)
		}
	}
}
