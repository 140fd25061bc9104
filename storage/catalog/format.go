package catalog

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/name"
)

// Limits of a catalog.
const (
	MaxSize    = 64 << 20 // bytes
	maxEntries = 200_000
)

// body is the catalog's format. Unknown fields are ignored.
type body struct {
	Protocol string `json:"protocol"`
	Packages items  `json:"packages"`
}

// items are those of a catalog. Of one that lists too many, no more are read
// than it takes to say so: "0," would take many times its length.
type items []json.RawMessage

// UnmarshalJSON implements json.Unmarshaler.
func (l *items) UnmarshalJSON(raw []byte) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	switch start, err := dec.Token(); {
	case err != nil, start == nil:
		return err
	case start != json.Delim('['):
		return errors.New("the packages are no list")
	}
	for dec.More() && len(*l) <= maxEntries {
		var in json.RawMessage
		if err := dec.Decode(&in); err != nil {
			return err
		}
		*l = append(*l, in)
	}
	return nil
}

type item struct {
	ID          id     `json:"id"`
	Title       string `json:"title"`
	Description string `json:"description"`
	Language    string `json:"language"`
	UpdatedAt   string `json:"updated_at"`
	Repository  struct {
		URL string `json:"url"`
	} `json:"repository"`
	GitHub struct {
		Name string `json:"name"`
	} `json:"github"`
	Policy json.RawMessage `json:"packbase"`
}

// An id is text or a number; "" for anything else.
type id string

// UnmarshalJSON implements json.Unmarshaler.
func (i *id) UnmarshalJSON(raw []byte) error {
	var words string
	var number float64
	switch {
	case json.Unmarshal(raw, &words) == nil:
		*i = id(text(words, 200))
	case json.Unmarshal(raw, &number) == nil:
		*i = id(fmt.Sprint(int64(number)))
	}
	return nil
}

// Parse reads a catalog. An entry that is not usable keeps its reason;
// only what is no catalog at all is an error.
func Parse(raw []byte) ([]Entry, error) {
	var list body
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fault.New("catalog_malformed", "what the catalog's URL answers is not the JSON of a catalog; the stored one stays in force")
	}
	switch {
	case list.Protocol != "v1":
		return nil, fault.New("catalog_malformed",
			fmt.Sprintf("the catalog has the protocol %.20q, want \"v1\"; the stored one stays in force", list.Protocol)).AsFinal()
	case len(list.Packages) == 0:
		return nil, fault.New("catalog_empty", "the catalog lists nothing; the stored one stays in force")
	case len(list.Packages) > maxEntries:
		return nil, fault.New("catalog_too_large",
			fmt.Sprintf("the catalog lists more than %d packages; the stored one stays in force", maxEntries))
	}
	entries := make([]Entry, 0, len(list.Packages))
	ids, names := map[string]bool{}, map[string]bool{}
	for _, raw := range list.Packages {
		e := parseItem(raw)
		if e.ID == "" || ids[e.ID] {
			if e.Problem == "" {
				e.Problem = "its id is missing, or another entry has it"
			}
			// The same entry keeps the same id, wherever it stands.
			sum := sha256.Sum256(raw)
			e.ID = fmt.Sprintf("#%x", sum[:8])
			if ids[e.ID] {
				continue
			}
		}
		if folded := strings.ToLower(e.Name); e.Problem == "" && names[folded] {
			e.Problem = fmt.Sprintf("another entry has the name %q", e.Name)
		} else if e.Problem == "" {
			names[folded] = true
		}
		ids[e.ID] = true
		entries = append(entries, e)
	}
	return entries, nil
}

func parseItem(raw json.RawMessage) Entry {
	var in item
	if err := json.Unmarshal(raw, &in); err != nil {
		return Entry{Problem: "it is not an object of the catalog's form"}
	}
	e := Entry{
		Language: text(in.Language, 40), Updated: text(in.UpdatedAt, 100), Description: text(in.Description, 500),
	}
	if e.Language == "" {
		e.Language = "shell" // the format's default
	}
	e.ID = string(in.ID)
	up, err := name.ParseUpstream(in.Repository.URL)
	if err != nil {
		e.Problem = err.Error()
		return e
	}
	e.Upstream, e.CloneURL, e.Name = up.Canonical, up.CloneURL, up.Name
	if in.GitHub.Name != "" {
		e.Name = in.GitHub.Name
	}
	if in.Title != "" {
		e.Name = in.Title
	}
	if e.Policy, err = parsePolicy(in.Policy); err != nil {
		e.Problem = err.Error()
	}
	if err := name.ValidPackage(e.Name); err != nil {
		e.Problem, e.Name = err.Error(), text(e.Name, 100)
	}
	return e
}

// text makes a stranger's text fit to be stored.
func text(s string, most int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, ""), "\x00", "")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return strings.TrimSpace(s)
}
