package ingest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/worker/upstream"
)

// So many tags of one run may be at fault; with one more, upstream is.
func TestMostAside(t *testing.T) {
	t.Parallel()
	m := &mirror{}
	e := fault.New(upstream.CodeRefused, "no")
	for i := range maxAside {
		if err := m.setAside(want(fmt.Sprint(i), gitpack.OID{byte(i)}), e, true); err != nil {
			t.Fatalf("tag %d: %v", i, err)
		}
	}
	err := m.setAside(want("last", gitpack.OID{99}), e, true)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("nor can %d others", maxAside)) {
		t.Errorf("one more: %v", err)
	}
}

// What may be another's fault, or the connection's, is asked for again alone; what is its own is not.
func TestAskedAgain(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		code  string
		alone []bool // at each try
		tag   string
		tries int // in all
	}{
		{upstream.CodeNoSuchCommit, []bool{true}, "v1", 1},
		{upstream.CodeNoSuchCommit, []bool{false, true}, "v1", 2},
		{upstream.CodeIncomplete, []bool{true, true, true}, "v1", 3},
		{gitpack.CodeIncomplete, []bool{false, true, true}, "v1", 3},
		{upstream.CodeIncomplete, []bool{true}, "", 1}, // asked for by somebody, who is told
	} {
		m := &mirror{}
		w, tries := want(tt.tag, gitpack.OID{1}), 0
		for _, alone := range tt.alone {
			tries++
			if err := m.setAside(w, fault.New(tt.code, "no"), alone); err != nil {
				t.Fatal(err)
			}
			if len(m.again) == 0 {
				break
			}
			w, m.again = m.again[0], nil
		}
		if tries != tt.tries || len(m.aside) != 1 {
			t.Errorf("%s of %q: %d tries, %d aside, want %d and 1", tt.code, tt.tag, tries, len(m.aside), tt.tries)
		}
	}
}

// A sick is an upstream that answers so for some ids, and for the others that it has no such commit.
type sick struct {
	source
	sick  func(gitpack.OID) bool
	err   *fault.Error
	asked [][]gitpack.OID
}

func (s *sick) objects(_ context.Context, oids []gitpack.OID, _ *os.File) (*gitpack.Objects, error) {
	s.asked = append(s.asked, oids)
	if slices.ContainsFunc(oids, s.sick) {
		return nil, s.err
	}
	return nil, fault.New(upstream.CodeNoSuchCommit, "no")
}

// What upstream has no better answer for is asked for alone when there is no later attempt, and not for long if it gives
// nothing. Who is to come back later, or not at all, does not ask on.
func TestUngiven(t *testing.T) {
	t.Parallel()
	all, third := func(gitpack.OID) bool { return true }, func(oid gitpack.OID) bool { return oid[0] == 3 }
	later := fault.New(upstream.CodeUnavailable, "no")
	later.RetryAfter = time.Second
	for what, tt := range map[string]struct {
		req    Request
		tags   int
		worked bool
		of     func(gitpack.OID) bool
		err    *fault.Error
		named  string // the tag that the run's error names
		asked  int    // at most
		aside  int    // tags that were asked for alone, and are at fault
	}{
		"one, and it is tried again":       {tags: 6, of: third, err: fault.New(upstream.CodeUnavailable, "no"), asked: 1},
		"one, and it is not":               {req: Request{Last: true}, tags: 6, worked: true, of: third, err: fault.New(upstream.CodeUnavailable, "no"), named: `"v3"`, asked: 13, aside: 5},
		"one that is a verdict on waiting": {tags: 6, worked: true, of: third, err: fault.New(upstream.CodeNotFound, "no"), named: `"v3"`, asked: 13, aside: 5},
		"one that answers with a web page": {tags: 6, worked: true, of: third, err: fault.New(upstream.CodeNotGit, "no"), named: `"v3"`, asked: 13, aside: 5},
		"one that keeps us waiting":        {req: Request{Last: true}, tags: 6, worked: true, of: third, err: fault.New(upstream.CodeTimeout, "no"), named: `"v3"`, asked: 13, aside: 5},
		"all":                              {req: Request{Last: true}, tags: 200, of: all, err: fault.New(upstream.CodeUnavailable, "no"), asked: 6},
		"all, once some were given":        {req: Request{Last: true}, tags: 200, worked: true, of: all, err: fault.New(upstream.CodeTimeout, "no"), named: "others", asked: 2 + maxAside + 1},
		"the one that was asked for":       {req: Request{Last: true, Target: "v1"}, tags: 1, of: all, err: fault.New(upstream.CodeUnavailable, "no"), asked: 1},
		"too many requests":                {req: Request{Last: true}, tags: 6, of: all, err: fault.New(upstream.CodeRateLimited, "no"), asked: 1},
		"out of order, and to be left":     {req: Request{Last: true}, tags: 6, of: all, err: later, asked: 1},
		"closed":                           {req: Request{Last: true}, tags: 6, of: all, err: fault.New(upstream.CodeAuth, "no"), asked: 1},
		"not there":                        {req: Request{Last: true}, tags: 6, of: all, err: fault.New(upstream.CodeUnreachable, "no"), asked: 1},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			src := &sick{sick: tt.of, err: tt.err}
			tt.req.Dir, tt.req.Batch = t.TempDir(), BatchTags
			m := &mirror{req: tt.req, src: src, events: &eventWriter{w: bufio.NewWriter(io.Discard)}, worked: tt.worked}
			var wants []wanted
			for i := range tt.tags {
				wants = append(wants, want(fmt.Sprint("v", i), gitpack.OID{byte(i)}))
			}
			err := AsFault(m.all(t.Context(), wants))
			if err == nil || err.Code != tt.err.Code || err.RetryAfter != tt.err.RetryAfter || !strings.Contains(err.Message, tt.named) || tt.named == "" && err != tt.err {
				t.Errorf("error = %+v, want %s of %q", err, tt.err.Code, tt.named)
			}
			if len(src.asked) > tt.asked || len(m.aside) != tt.aside {
				t.Errorf("upstream was asked %d times, and %d tags are at fault; want %d at most, and %d", len(src.asked), len(m.aside), tt.asked, tt.aside)
			}
		})
	}
}
