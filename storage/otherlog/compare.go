package otherlog

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/francescobianco/packbase/storage/logbook"
)

// slack is how much earlier than an entry before it an entry may have been seen: transactions end in another order than they
// begin in.
const slack = time.Hour

// A claim is what an entry says of something that two logs cannot both be right about, if they say different things.
type claim struct {
	about string // "tag https://host/owner/repo refs/tags/v1", "commit https://host/owner/repo 8b13...", "content" likewise, "url https://..."
	is    string // what it is, as lines of the entry
	name  string // what upstream's name for it is, of which an entry moved tells; "" for nothing that can move
}

// claims returns what an entry says.
func claims(e logbook.Entry) []claim {
	lines := func(keys ...string) string {
		var b strings.Builder
		for _, key := range keys {
			fmt.Fprintf(&b, "%s %s\n", key, e.Value(key))
		}
		return b.String()
	}
	upstream := first(e, "upstream", "upstream-sha256")
	// A tree may be wrapped as the tag is called: not all tarballs of a commit have the same content.
	commit := claim{"commit " + upstream + " " + e.Value("commit"), lines("tree", "zig", "zig-legacy"), ""}
	switch e.Kind() {
	case "release":
		id := e.Value("tag")
		if id == "" {
			id = e.Value("commit")
		}
		return []claim{{"tag " + upstream + " " + first(e, "ref", "ref-sha256"), lines("commit", "tag", "tree", "content", "zig", "zig-legacy"), id}, commit}
	case "snapshot":
		return []claim{commit, {"content " + upstream + " " + e.Value("commit"), lines("content"), ""}}
	case "archive":
		return []claim{{"url " + first(e, "url", "url-sha256"), lines("zig", "zig-legacy"), e.Value("zig-legacy")}}
	}
	return nil
}

func first(e logbook.Entry, keys ...string) string {
	for _, key := range keys {
		if v := e.Value(key); v != "" {
			return v
		}
	}
	return ""
}

// movedAbout returns what an entry says that moved, and to what.
func movedAbout(e logbook.Entry) (about, to string) {
	if e.Kind() != "moved" {
		return "", ""
	}
	if url := first(e, "url", "url-sha256"); url != "" {
		return "url " + url, e.Value("new")
	}
	return "tag " + first(e, "upstream", "upstream-sha256") + " " + first(e, "ref", "ref-sha256"), e.Value("new")
}

// A key is a digest in place of a text: millions of them are held.
type key [16]byte

func keyOf(text string) key {
	sum := sha256.Sum256([]byte(text))
	return key(sum[:16])
}

// A said is what a log says of one thing.
type said struct {
	is, name key
	index    int64
}

// A Reading is all that a log says that can be compared. It is read on from where it ended.
type Reading struct {
	log    *Log
	size   int64
	says   map[key][]said
	moved  map[[2]key]bool // what, and to what
	latest time.Time       // of all that were seen
	at     int64           // the entry that says so
	dates  [][2]int64      // an entry, and one behind it that says that it was seen long before
}

// Read reads what the log has that the reading has not. The log must be that of the reading, later.
func (r *Reading) Read(ctx context.Context, l *Log) error {
	if r.says == nil {
		r.says, r.moved = map[key][]said{}, map[[2]key]bool{}
	}
	err := l.Entries(ctx, r.size, func(index int64, e logbook.Entry) error {
		for _, c := range claims(e) {
			about := keyOf(c.about)
			r.says[about] = append(r.says[about], said{keyOf(c.is), keyOf(c.name), index})
		}
		if about, to := movedAbout(e); about != "" {
			r.moved[[2]key{keyOf(about), keyOf(to)}] = true
		}
		r.date(index, e.Seen())
		r.size = index + 1
		return nil
	})
	r.log = l
	return err
}

// date notes that an entry was seen then. Of those that contradict one before them, the first is kept.
func (r *Reading) date(index int64, seen time.Time) {
	switch {
	case seen.After(r.latest):
		r.latest, r.at = seen, index
	case seen.Before(r.latest.Add(-slack)) && (len(r.dates) == 0 || r.dates[len(r.dates)-1][0] != r.at):
		r.dates = append(r.dates, [2]int64{r.at, index})
	}
}

// Compare returns what two logs contradict each other in, and what each of them contradicts itself in: at most so many.
// That one has what the other has not is no contradiction, nor is a tag of which one of them says that it moved.
func Compare(ctx context.Context, a, b *Reading, most int) ([]Evidence, error) {
	var pairs [][2]place
	for _, r := range []*Reading{a, b} {
		for _, d := range r.dates {
			pairs = append(pairs, [2]place{{r.log, d[0]}, {r.log, d[1]}})
		}
	}
	seen := map[[2]int64]bool{}
	for about := range a.says {
		if x, y, ok := contradict(a, b, about); ok { // a release is told of as a tag and as a commit
			seen[[2]int64{x.index, y.index}] = true
		}
	}
	for _, at := range slices.SortedFunc(maps.Keys(seen), func(p, q [2]int64) int { return slices.Compare(p[:], q[:]) }) {
		pairs = append(pairs, [2]place{{a.log, at[0]}, {b.log, at[1]}})
	}
	var found []Evidence
	for _, pair := range pairs[:min(len(pairs), most)] {
		e, err := newEvidence(ctx, pair)
		if err != nil {
			return found, err
		}
		found = append(found, e)
	}
	if len(found) > 0 || logbook.PolicyKey(a.log.Policy) != logbook.PolicyKey(b.log.Policy) {
		return found, nil
	}
	// Of one log one is the beginning of the other, whatever they say.
	larger := a.log
	if b.log.Tree.N > larger.Tree.N {
		larger = b.log
	}
	if err := logbook.Grew(ctx, a.log.Tree, b.log.Tree, larger.tiles); err != nil {
		return nil, fmt.Errorf("what %s and %s show is signed as one log: %w", a.log.Where, b.log.Where, err)
	}
	return nil, nil
}

// contradict returns what two logs say of something that cannot both be true. Who says the truth beside a lie has lied.
func contradict(a, b *Reading, about key) (s, t said, ok bool) {
	x, y := a.says[about], b.says[about]
	both := map[key]bool{} // what both say
	for _, s := range x {
		both[s.is] = says(y, s)
	}
	for _, s := range x {
		for _, t := range y {
			moved := s.name != t.name && (a.tells(about, t) || b.tells(about, s) || b.tells(about, t) && both[s.is] || a.tells(about, s) && both[t.is])
			if s.is != t.is && !moved {
				return s, t, true
			}
		}
	}
	return s, t, false
}

// says reports whether one of all says the same.
func says(all []said, one said) bool {
	return slices.ContainsFunc(all, func(s said) bool { return s.is == one.is })
}

// tells reports whether the log says that something has moved to that.
func (r *Reading) tells(about key, to said) bool { return r.moved[[2]key{about, to.name}] }

// A place is an entry of a log.
type place struct {
	log   *Log
	index int64
}
