// Package logbook is the formats of the log: its entries, the tree over them, what is signed, and the files in which all
// of it is served. docs/log.md is their specification. It knows nothing of Postgres.
//
// Of the formats that others have, c2sp.org/tlog-tiles, tlog-checkpoint and signed-note, it uses the libraries of others.
package logbook

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// MaxEntry is the most bytes of an entry.
const MaxEntry = 2048

// Format is the key of an entry's first line; the value is its kind.
const Format = "packbase/1"

// An Entry is one entry of the log, as its lines: the first says the kind, the last when it was seen.
type Entry []Line

// A Line is a key and a value, which may have spaces.
type Line struct{ Key, Value string }

// kinds has the keys of each kind, in their order; those with a question mark may be left out. Of a key like upstream
// there may be upstream-sha256 instead, where the value is longer than maxValue.
var kinds = map[string][][]string{
	"release":   {{"upstream", "ref", "commit", "tag?", "tree", "content", "tarball", "zig?", "zig-legacy?"}},
	"snapshot":  {{"upstream", "commit", "tree", "content", "tarball", "zig?", "zig-legacy?"}},
	"archive":   {{"url", "body", "zig?", "zig-legacy"}},
	"moved":     {{"upstream", "ref", "old", "new"}, {"url", "old", "new"}},
	"gone":      {{"upstream", "ref", "old"}},
	"withdrawn": {{"upstream", "ref?", "commit"}, {"url"}},
	"claim":     {{"upstream", "name"}},
	"key":       {{"vkey"}},
	"epoch":     {{"history"}},
}

// values has what the value of a key looks like; of the others, any text that fits on a line will do.
var values = map[string]*regexp.Regexp{
	"ref":        regexp.MustCompile(`^refs/tags/.`),
	"commit":     oid,
	"tag":        oid,
	"tree":       oid,
	"content":    regexp.MustCompile(`^sha256:[0-9a-f]{64}$`),
	"tarball":    sized,
	"body":       sized,
	"zig-legacy": regexp.MustCompile(`^1220[0-9a-f]{64}$`),
	"old":        regexp.MustCompile(`^([0-9a-f]{40}|1220[0-9a-f]{64})$`),
	"new":        regexp.MustCompile(`^([0-9a-f]{40}|1220[0-9a-f]{64})$`),
	"history":    regexp.MustCompile(`^(begin|end)$`),
}

var (
	oid    = regexp.MustCompile(`^[0-9a-f]{40}$`)
	sized  = regexp.MustCompile(`^sha256:[0-9a-f]{64} (0|[1-9][0-9]*)$`)
	digest = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

const (
	maxValue = 1024      // bytes; of what is longer an entry has the digest
	hashed   = "-sha256" // ends the key then
	seen     = "seen"
	seenForm = "2006-01-02T15:04:05Z"
)

// ParseEntry reads an entry. There is one spelling of each; any other text is an error.
func ParseEntry(text []byte) (Entry, error) {
	e, err := split(text)
	if err == nil {
		err = e.check()
	}
	if err != nil {
		return nil, fmt.Errorf("log entry: %w", err)
	}
	return e, nil
}

func split(text []byte) (Entry, error) {
	switch {
	case len(text) > MaxEntry:
		return nil, fmt.Errorf("it has %d bytes, at most %d are allowed", len(text), MaxEntry)
	case !utf8.Valid(text):
		return nil, fmt.Errorf("it is not UTF-8")
	case !bytes.HasSuffix(text, []byte("\n")):
		return nil, fmt.Errorf("it does not end with a line feed")
	}
	var e Entry
	for line := range strings.SplitSeq(string(text[:len(text)-1]), "\n") {
		key, value, _ := strings.Cut(line, " ")
		if key == "" || value == "" || strings.TrimSpace(value) != value || strings.ContainsFunc(line, unicode.IsControl) {
			return nil, fmt.Errorf("%.80q is not a key and a value", line)
		}
		e = append(e, Line{key, value})
	}
	return e, nil
}

func (e Entry) check() error {
	if len(e) < 2 || e[0].Key != Format {
		return fmt.Errorf("it does not begin with %s", Format)
	}
	last := e[len(e)-1]
	if at, err := time.Parse(seenForm, last.Value); last.Key != seen || err != nil || at.Format(seenForm) != last.Value {
		return fmt.Errorf("it does not end with when it was seen")
	}
	forms := kinds[e.Kind()]
	if !slices.ContainsFunc(forms, e[1:len(e)-1].fits) {
		return fmt.Errorf("its lines are not those of a %.20q", e.Kind())
	}
	for _, l := range e {
		if name, is := strings.CutSuffix(l.Key, hashed); is && values[name] == nil && !digest.MatchString(l.Value) {
			return fmt.Errorf("%s is no digest", l.Key)
		}
		if form := values[l.Key]; len(l.Value) > maxValue || form != nil && !form.MatchString(l.Value) {
			return fmt.Errorf("%.100q is no value of %s", l.Value, l.Key)
		}
	}
	return nil
}

// fits reports whether the lines have the keys of a form.
func (e Entry) fits(form []string) bool {
	for _, key := range form {
		name, optional := strings.CutSuffix(key, "?")
		switch {
		case len(e) > 0 && (e[0].Key == name || values[name] == nil && e[0].Key == name+hashed):
			e = e[1:]
		case !optional:
			return false
		}
	}
	return len(e) == 0
}

// Kind returns what the entry tells of.
func (e Entry) Kind() string { return e[0].Value }

// Value returns the value of a key, "" if there is none.
func (e Entry) Value(key string) string {
	for _, l := range e {
		if l.Key == key {
			return l.Value
		}
	}
	return ""
}

// Seen returns when the entry says that it was published.
func (e Entry) Seen() time.Time {
	at, _ := time.Parse(seenForm, e[len(e)-1].Value) // which was checked
	return at
}

// Text returns the entry's bytes, as they are hashed.
func (e Entry) Text() []byte {
	var b []byte
	for _, l := range e {
		b = fmt.Appendf(b, "%s %s\n", l.Key, l.Value)
	}
	return b
}

// Identity returns what is the same of two entries that say the same, whenever they saw it: the SHA-256 of the text without
// its last line.
func Identity(text []byte) [sha256.Size]byte {
	end := bytes.LastIndexByte(text[:max(len(text)-1, 0)], '\n') + 1
	return sha256.Sum256(text[:end])
}
