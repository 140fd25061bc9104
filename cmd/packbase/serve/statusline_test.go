package serve

import (
	"bytes"
	"errors"
	"testing"

	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/cmd/packbase/term"
	"github.com/francescobianco/packbase/storage/jobs"
)

func TestStatusText(t *testing.T) {
	t.Parallel()
	doing := func(kind, pkg string, done, total int64) wire.Doing {
		return wire.Doing{Kind: kind, Package: pkg, Progress: wire.Progress{Done: done, Total: total}}
	}
	busy := wire.Queue{QueueCounts: wire.QueueCounts{Pending: 1234}, Workers: []wire.Worker{{Jobs: []wire.Doing{doing(jobs.UpdateCatalog, "", 0, 0), doing(jobs.FetchPackage, "zap", 3, 79)}}, {Jobs: []wire.Doing{doing(jobs.CaptureTree, "zls", 0, 0)}}}}
	for _, tt := range []struct {
		st   wire.Status
		err  error
		want string
	}{
		{wire.Status{PackagesTotal: 1, Releases: 1}, nil, "1 package, 1 release"},
		{wire.Status{PackagesTotal: 12, Releases: 1340, PackagesUnhealthy: 1, PackagesFrozen: 2, Blobs: wire.Blobs{Damaged: 3}}, nil, "12 packages, 1,340 releases · 1 failing · 2 frozen · 3 damaged"},
		{wire.Status{Queue: busy, Update: wire.Update{State: jobs.Running, Done: 5, Total: 80}}, nil, "0 packages, 0 releases · updating (5/80) · mirroring zap (3/79) and 1 more · 1,234 waiting"},
		{wire.Status{Replication: &wire.Replication{Seq: 5, Head: 90}}, nil, "0 packages, 0 releases · replicating (5/90)"},
		{wire.Status{Replication: &wire.Replication{Seq: 5, Head: 90, Halted: "why"}}, nil, "0 packages, 0 releases · replication halted"},
		{wire.Status{}, errors.New("away"), "Postgres does not answer"},
	} {
		if got, want := statusText("http://h:1", &tt.st, tt.err), "listening on http://h:1 · "+tt.want; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// What is logged stands above the line, which fits the terminal and stays the last.
func TestStatusLine(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	l := &statusLine{screen: func() *term.Screen { return &term.Screen{Out: &out, Width: 20, Height: 5} }}
	l.Write([]byte("first\n"))
	l.set("one")
	l.Write([]byte("warning\n"))
	l.set("two \x1b[2J and much more than there is room for")
	l.set("")
	l.Write([]byte("last\n"))
	const clear = "\r\x1b[K"
	want := "first\n" + "\rone\x1b[K" + clear + "warning\n\rone\x1b[K" + clear + "\rtwo \ufffd[2J and much …\x1b[K" + clear + "last\n"
	if got := out.String(); got != want {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
}
