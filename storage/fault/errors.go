package fault

import (
	"errors"
	"fmt"
	"strings"
	"time"
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

// A TakenError says that a name cannot be given to a package, as it means
// another one or did so once. It is an ErrConflict.
type TakenError struct{ Name string }

func (e *TakenError) Error() string {
	return fmt.Sprintf("the name %q is taken: it means another package, or did so once, and no name ever means two", e.Name)
}

// Unwrap returns ErrConflict.
func (e *TakenError) Unwrap() error { return ErrConflict }

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

func Invalid(field, format string, args ...any) error {
	return &InvalidError{Field: field, Problem: fmt.Sprintf(format, args...)}
}

// A ConflictError says in which state something is that does not allow what
// was asked for. It is an ErrConflict.
type ConflictError struct{ Problem string }

func (e *ConflictError) Error() string { return e.Problem }

// Unwrap returns ErrConflict.
func (e *ConflictError) Unwrap() error { return ErrConflict }

func Conflict(format string, args ...any) error {
	return &ConflictError{fmt.Sprintf(format, args...)}
}

// Clip keeps what strangers wrote short enough for a message.
func Clip(s string) string {
	const most = 100
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// ErrGone says that something was removed, and is never there again.
var ErrGone = errors.New("removed")

// A GoneError says why something was removed. It is an ErrGone.
type GoneError struct {
	What   string
	Reason string
	At     time.Time
}

func (e *GoneError) Error() string {
	return fmt.Sprintf("%s was removed on %s: %s", e.What, e.At.UTC().Format(time.DateOnly), e.Reason)
}

// Unwrap returns ErrGone.
func (e *GoneError) Unwrap() error { return ErrGone }

// An Error is how a job failed, in a form that people and programs can use.
// The same code is the HTTP answer of a request that waited for the job.
type Error struct {
	Code       string        `json:"code"` // what is known of it is in codes
	Message    string        `json:"message"`
	Final      bool          `json:"final"`                 // trying again would not help
	RetryAfter time.Duration `json:"retry_after,omitempty"` // what upstream asked for, if it did
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// New returns an error that is as final as its code.
func New(code, message string) *Error {
	return &Error{Code: code, Message: message, Final: of(code).final}
}

// AsFinal returns the error as a final one, although its code is not.
func (e *Error) AsFinal() *Error {
	e.Final = true
	return e
}

// From returns err as an Error, nil if it has no code.
func From(err error) *Error {
	var e *Error
	var bound *BoundError
	var taken *TakenError
	var gone *GoneError
	var conflict *ConflictError
	switch {
	case errors.As(err, &e):
		return e
	case errors.As(err, &bound):
		return New("name_conflict", bound.Error())
	case errors.As(err, &taken):
		return New("name_conflict", taken.Error())
	case errors.As(err, &gone):
		return New("removed", gone.Error())
	case errors.As(err, &conflict):
		return New("conflict", conflict.Error())
	}
	return nil
}
