package catalog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"time"
)

// A Policy says what of a package updates mirror. The zero Policy is all tags, the branches that are here, and a look
// whenever the catalog says that something changed. What is here already stays, and a tag, branch or commit that is
// asked for by name is mirrored whatever the policy.
//
// In a catalog it is the field "packbase" of an entry.
type Policy struct {
	Tags      Patterns  `json:"tags,omitempty"`                     // none: all
	Branches  Patterns  `json:"branches,omitempty"`                 // that are followed besides those that are here
	Refresh   int64     `json:"refresh_interval_seconds,omitempty"` // 0: as the catalog says
	Retention Retention `json:"retention,omitzero"`
	Format    string    `json:"archive_format,omitempty"` // "tar_gz" is all there is
}

// Retention bounds how far back tags are mirrored.
type Retention struct {
	Tags int `json:"tags,omitempty"` // the latest so many; 0: all
}

// Patterns are those of path.Match. In JSON one may stand without a list.
type Patterns []string

// UnmarshalJSON implements json.Unmarshaler.
func (p *Patterns) UnmarshalJSON(raw []byte) error {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		*p = Patterns{one}
		return nil
	}
	return json.Unmarshal(raw, (*[]string)(p))
}

// Match reports whether one of the patterns matches.
func (p Patterns) Match(name string) bool {
	for _, pattern := range p {
		if ok, _ := path.Match(pattern, name); ok {
			return true
		}
	}
	return false
}

// Limits of a policy.
const (
	maxPatterns = 100
	maxPattern  = 200 // bytes
	maxRefresh  = int64(366 * 24 * time.Hour / time.Second)
)

// parsePolicy reads a policy. Other than in the rest of a catalog, what it does not know is an error: a policy that is
// half understood mirrors what nobody wanted.
func parsePolicy(raw json.RawMessage) (p Policy, err error) {
	if len(raw) == 0 {
		return p, nil
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		return Policy{}, fmt.Errorf("its field packbase: %s", text(err.Error(), 200))
	}
	switch {
	case p.Refresh < 0 || p.Refresh > maxRefresh:
		err = fmt.Errorf("its refresh_interval_seconds is %d, want 0 to %d", p.Refresh, maxRefresh)
	case p.Retention.Tags < 0:
		err = errors.New("its retention of tags is negative")
	case p.Format != "" && p.Format != "tar_gz":
		err = fmt.Errorf("its archive_format is %.20q, want \"tar_gz\"", p.Format)
	default:
		err = errors.Join(p.Tags.check("tags"), p.Branches.check("branches"))
	}
	if err != nil {
		return Policy{}, err
	}
	return p, nil
}

func (p Patterns) check(of string) error {
	if len(p) > maxPatterns {
		return fmt.Errorf("it has %d patterns of %s, want at most %d", len(p), of, maxPatterns)
	}
	for _, pattern := range p {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" || len(pattern) > maxPattern {
			return fmt.Errorf("%.50q is no pattern of %s", pattern, of)
		}
	}
	return nil
}
