package storage

import (
	"errors"
	"fmt"

	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/pg"
)

// Errors that callers may test for with errors.Is.
// Anything else is unexpected: the API answers 500 and jobs are retried.
var (
	ErrNotFound = fault.ErrNotFound
	ErrConflict = fault.ErrConflict
	ErrInvalid  = fault.ErrInvalid
	ErrAway     = fault.ErrAway

	// ErrLost says that another worker has taken over: what this one holds
	// is stale, and it must stop.
	ErrLost = errors.New("claim lost")
)

// A BoundError says that a package name belongs to another upstream.
// It is an ErrConflict.
type BoundError struct {
	Package  string // the name as its owner spells it
	Upstream string // the owner, canonical; "" if the asker may not know
}

func (e *BoundError) Error() string {
	if e.Upstream == "" {
		return fmt.Sprintf("the name %q is taken; mirror this upstream under another name by giving \"name\"", e.Package)
	}
	return fmt.Sprintf("the name %q is bound to %s; mirror this upstream under another name by giving \"name\"", e.Package, e.Upstream)
}

// Unwrap returns ErrConflict.
func (e *BoundError) Unwrap() error { return ErrConflict }

// An InvalidError says what is wrong with a value and what would be right.
// It is an ErrInvalid.
type InvalidError struct {
	Field   string // the JSON field or path element, "" if none
	Problem string
}

func (e *InvalidError) Error() string {
	if e.Field == "" {
		return e.Problem
	}
	return e.Field + ": " + e.Problem
}

// Unwrap returns ErrInvalid.
func (e *InvalidError) Unwrap() error { return ErrInvalid }

func invalid(field, format string, args ...any) error {
	return &InvalidError{Field: field, Problem: fmt.Sprintf(format, args...)}
}

func translate(err error) error { return pg.Translate(err) }

// IsAway reports whether err means that Postgres cannot be reached or cannot
// take more work now, so that the same may succeed soon.
func IsAway(err error) bool { return pg.IsAway(err) }
