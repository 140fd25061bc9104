package feed

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// Where a packbase serves its feed, and under it the blobs that it names, by
// digest.
const (
	ChangesPath = "/api/changes"
	BlobsPath   = "/api/blobs/"
)

// A Page is what is answered there.
type Page struct {
	Changes List `json:"changes"`
	Head    Head `json:"head"`
}

// MaxPage is the most changes that a page may have.
const MaxPage = 1000

// A List is the changes of a page. One with more than MaxPage is not read to its
// end: of some megabytes of "{}," it would be a gigabyte.
type List []Change

// UnmarshalJSON implements json.Unmarshaler.
func (l *List) UnmarshalJSON(raw []byte) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	switch start, err := dec.Token(); {
	case err != nil, start == nil:
		return err
	case start != json.Delim('['):
		return errors.New("the changes are no list")
	}
	for dec.More() {
		if len(*l) == MaxPage {
			return fmt.Errorf("the page has more than %d changes", MaxPage)
		}
		var change Change
		if err := dec.Decode(&change); err != nil {
			return err
		}
		*l = append(*l, change)
	}
	return nil
}

// A Head is the newest change there is; zero if there is none.
type Head struct {
	Chain string `json:"chain"`
	Seq   int64  `json:"seq"`
}
