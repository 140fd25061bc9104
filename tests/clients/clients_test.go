// Package clients holds packbase to the Git clients that people have: git in
// all protocol versions, go-git and Zig; with the build tag clients also
// dulwich, libgit2, isomorphic-git, gix and JGit, and tests of many tags, many
// clones and broken connections.
package clients

import (
	"errors"
	"flag"
	"os"
	"testing"

	"github.com/francescobianco/packbase/tests/harness"
)

var tableFile = flag.String("table", "", "write the table of clients and steps to this `file`")

func TestMain(m *testing.M) { harness.Main(m) }

// A step is something that clients do. Clients that are programs of their own
// have it as first argument, then what place.args says.
type step string

const (
	list       step = "list"       // print the refs, as "id name"
	clone      step = "clone"      // all of it, with a work tree of HEAD
	depth      step = "depth"      // HEAD without its history, with a work tree
	byTag      step = "tag"        // one tag at depth 1, with a work tree
	byCommit   step = "commit"     // one commit by its id at depth 1, with a work tree
	fetch      step = "fetch"      // again, in a full clone, with all new tags
	fetchDepth step = "fetchdepth" // the same at depth 1, in a clone at depth 1
)

// before and after are the steps before and after a tag is added.
var (
	before = []step{list, clone, depth, byTag, byCommit}
	after  = []step{fetch, fetchDepth}
)

var titles = map[step]string{
	list: "list refs", clone: "full clone", depth: "depth 1", byTag: "by tag", byCommit: "by commit",
	fetch: "fetch a new tag", fetchDepth: "the same at depth 1",
}

// A place is where a step happens.
type place struct {
	url string // of the repository
	dir string // of the clone; there is none before the steps that make one
	ref string // the tag or commit of a step that has one
}

// A client does steps.
type client struct {
	name string // with its version
	do   func(t testing.TB, s step, at place) (stdout string, err error)
	// check replaces the checks of what a step left behind, unless nil.
	check func(w *world, s step, stdout string) error
}

// errNoStep is returned for a step that a client does not have.
var errNoStep = errors.New("the client has no such step")

// environment is what clients see: nobody's configuration.
func environment(home string) []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + home, "LC_ALL=C.UTF-8",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=A U Thor", "GIT_AUTHOR_EMAIL=author@example.com",
		"GIT_COMMITTER_NAME=C O Mitter", "GIT_COMMITTER_EMAIL=committer@example.com",
	}
}
