package otherlog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/francescobianco/packbase/storage/logbook"
)

// EvidenceFormat is the format of evidence.
const EvidenceFormat = "packbase-evidence/1"

// What evidence proves.
const (
	Conflict = "conflict" // two entries that cannot both be true
	Date     = "date"     // an entry that says that it was seen long before one that was logged before it
)

// Evidence is two statements that cannot both be true, each signed by who made it. It is all that is needed to check that.
type Evidence struct {
	Format     string       `json:"format"`
	Statements [2]Statement `json:"statements"`
}

// A Statement is an entry of a log, proved.
type Statement struct {
	Where string `json:"where"` // the log was read; it proves nothing
	Key   string `json:"key"`   // the public key of the log
	Proof string `json:"proof"` // c2sp.org/tlog-proof, with the entry
}

func newEvidence(ctx context.Context, pair [2]place) (Evidence, error) {
	ev := Evidence{Format: EvidenceFormat}
	for i, p := range pair {
		proof, _, err := p.log.prove(ctx, p.index)
		if err != nil {
			return ev, err
		}
		ev.Statements[i] = Statement{p.log.Where, logbook.PolicyKey(p.log.Policy), string(proof)}
	}
	_, err := ev.Check()
	return ev, err
}

// ParseEvidence reads a file of evidence. It checks nothing.
func ParseEvidence(raw []byte) (Evidence, error) {
	var ev Evidence
	err := json.Unmarshal(raw, &ev)
	if err == nil && ev.Format != EvidenceFormat {
		err = fmt.Errorf("its format is %.40q, not %s", ev.Format, EvidenceFormat)
	}
	if err != nil {
		return ev, fmt.Errorf("it is no evidence: %w", err)
	}
	return ev, nil
}

// File returns evidence as a file, and a name for that.
func (ev Evidence) File() (name string, raw []byte) {
	raw, err := json.MarshalIndent(ev, "", "  ")
	if err != nil {
		panic(err) // strings only
	}
	f, err := ev.Check()
	if err != nil {
		panic(err) // it was made here
	}
	sum := sha256.Sum256(append(f.Entries[0].Text(), f.Entries[1].Text()...))
	return "evidence-" + hex.EncodeToString(sum[:8]) + ".json", append(raw, '\n')
}

// A Finding is what evidence proves.
type Finding struct {
	Kind    string // Conflict or Date
	About   string // what two entries disagree about
	Differ  []string
	Logs    [2]string // the names of the logs
	Keys    [2]string
	Indexes [2]int64
	Entries [2]logbook.Entry
}

// Check returns what the evidence proves, or an error if that is nothing. It needs nothing but the evidence.
func (ev Evidence) Check() (Finding, error) {
	var f Finding
	var roots [2][]byte
	for i, s := range ev.Statements {
		if logbook.PolicyKey(logbook.Policy(s.Key)) != s.Key || strings.Contains(s.Key, "#") { // a policy has comments and other lines
			return f, fmt.Errorf("statement %d: its key is not one public key", i+1)
		}
		e, checkpoint, err := logbook.OpenProof([]byte(s.Proof), logbook.Policy(s.Key))
		if err != nil {
			return f, fmt.Errorf("statement %d: %w", i+1, err)
		}
		f.Entries[i], f.Keys[i], roots[i] = e, s.Key, checkpoint
		f.Logs[i], _, _ = strings.Cut(s.Key, "+")
		if f.Indexes[i], err = indexOf(s.Proof); err != nil {
			return f, fmt.Errorf("statement %d: %w", i+1, err)
		}
	}
	for _, x := range claims(f.Entries[0]) {
		for _, y := range claims(f.Entries[1]) {
			if x.about == y.about && x.is != y.is {
				f.Kind, f.About = Conflict, x.about
				for _, l := range strings.Split(x.is, "\n") {
					if !strings.Contains("\n"+y.is, "\n"+l+"\n") && l != "" {
						word, _, _ := strings.Cut(l, " ")
						f.Differ = append(f.Differ, word)
					}
				}
				return f, nil
			}
		}
	}
	one := f.Keys[0] == f.Keys[1] && bytes.Equal(roots[0], roots[1])
	if one && f.Indexes[0] < f.Indexes[1] && f.Entries[1].Seen().Before(f.Entries[0].Seen().Add(-slack)) {
		f.Kind, f.About, f.Differ = Date, "dates", []string{"seen"}
		return f, nil
	}
	return f, errors.New("the two statements do not contradict each other")
}

func indexOf(proof string) (int64, error) {
	for line := range strings.Lines(proof) {
		if n, ok := strings.CutPrefix(line, "index "); ok {
			return strconv.ParseInt(strings.TrimSuffix(n, "\n"), 10, 64)
		}
	}
	return 0, errors.New("the proof has no index")
}

// Explain returns in words what the evidence proves.
func (f Finding) Explain() string {
	var b strings.Builder
	if f.Kind == Date {
		fmt.Fprintf(&b, "The log %s says wrongly when it saw something: entry %d was logged after entry %d, and says that it was seen before.\n", f.Logs[0], f.Indexes[1], f.Indexes[0])
	} else {
		fmt.Fprintf(&b, "Two logs contradict each other about %s, in %s.\n", f.About, strings.Join(f.Differ, ", "))
	}
	for i, e := range f.Entries {
		fmt.Fprintf(&b, "\n%s, entry %d, signed by %s:\n", f.Logs[i], f.Indexes[i], f.Keys[i])
		for line := range strings.Lines(string(e.Text())) {
			b.WriteString("    " + line)
		}
	}
	what, args, _ := strings.Cut(f.About, " ")
	switch {
	case f.Kind == Date:
		b.WriteString("\nThe entry is dated back, or the clock of that machine was wrong.\n")
	case what == "tag":
		fmt.Fprintf(&b, "\nOne of them is wrong, or the tag was moved between the two, of which neither log tells. git ls-remote %s says what upstream has now.\n", args)
	case what == "commit", what == "content":
		b.WriteString("\nA commit has one content: one of them is wrong. git archive of that commit says which.\n")
	default:
		b.WriteString("\nOne of them is wrong, or the URL answered other files, of which neither log tells.\n")
	}
	return b.String()
}
