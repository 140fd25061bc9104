// Package fault is packbase's vocabulary of errors.
package fault

import "errors"

// Errors that callers may test for with errors.Is.
// Anything else is unexpected: the API answers 500 and jobs are retried.
var (
	ErrNotFound = errors.New("not found")
	ErrConflict = errors.New("conflict")
	ErrInvalid  = errors.New("invalid")

	// ErrAway says that Postgres did not answer, or could not do it now.
	// Whether it did what was asked is not known.
	ErrAway = errors.New("database away")
)
