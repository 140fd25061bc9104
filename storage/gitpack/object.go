// Package gitpack hides Git's formats: it takes objects out of packfiles that
// nobody vouches for, checks that they are fit to be passed on, and lays them
// out so that any release is served as a few byte ranges.
package gitpack

import (
	"encoding/hex"
	"fmt"
)

// An OID is a Git object id: the SHA-1 of the object's header and content.
// Its text form is 40 lowercase hex digits. The zero OID names no object.
type OID [20]byte

// ParseOID reads 40 hex digits, of either case.
func ParseOID(s string) (OID, error) {
	var id OID
	if len(s) != 2*len(id) {
		return OID{}, fmt.Errorf("object id %q: not 40 hex digits", s)
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return OID{}, fmt.Errorf("object id %q: not 40 hex digits", s)
	}
	return id, nil
}

// IsZero reports whether id names no object.
func (id OID) IsZero() bool { return id == OID{} }

// String returns the 40 lowercase hex digits of id.
func (id OID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText returns the 40 lowercase hex digits of id.
func (id OID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText is ParseOID.
func (id *OID) UnmarshalText(b []byte) (err error) {
	*id, err = ParseOID(string(b))
	return err
}

// A Type is the type of an object, with the number that packs give it.
// gitformat-pack(5), "Object types".
type Type uint8

// The types of whole objects.
const (
	Commit Type = 1
	Tree   Type = 2
	Blob   Type = 3
	Tag    Type = 4
)

// String returns the word that Git uses in object headers.
func (t Type) String() string {
	switch t {
	case Commit:
		return "commit"
	case Tree:
		return "tree"
	case Blob:
		return "blob"
	case Tag:
		return "tag"
	}
	return fmt.Sprintf("type %d", uint8(t))
}
