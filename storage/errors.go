package storage

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Errors that callers may test for with errors.Is.
// Anything else is unexpected: the API answers 500 and jobs are retried.
var (
	ErrNotFound = errors.New("not found")
	ErrConflict = errors.New("conflict")
	ErrInvalid  = errors.New("invalid")

	// ErrLost says that another worker has taken over: what this one holds
	// is stale, and it must stop.
	ErrLost = errors.New("claim lost")
)

// A BoundError says that a package name belongs to another upstream.
// It is an ErrConflict.
type BoundError struct {
	Package  string // the name as its owner spells it
	Upstream string // the owner, canonical
}

func (e *BoundError) Error() string {
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

// translate maps what Postgres says to this package's errors.
// https://www.postgresql.org/docs/current/errcodes-appendix.html
func translate(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return ErrNotFound
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	switch pg.Code {
	case "23505", "23000": // unique_violation; refuse_frozen
		return fmt.Errorf("%w: %v", ErrConflict, err)
	case "23503": // foreign_key_violation
		return fmt.Errorf("%w: %v", ErrNotFound, err)
	case "23514", "22P02", "22021", "22001": // check, text representation, not in repertoire, too long
		return fmt.Errorf("%w: %v", ErrInvalid, err)
	}
	return err
}

// isTransient reports whether the same transaction may succeed when it is
// run again: serialization failures and deadlocks.
func isTransient(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "40001" || pg.Code == "40P01")
}

// IsAway reports whether err means that Postgres cannot be reached or cannot
// take more work now, so that the same may succeed soon.
func IsAway(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		// connection exceptions, insufficient resources, operator intervention, read-only
		return pg.Code[:2] == "08" || pg.Code[:2] == "53" || pg.Code[:2] == "57" || pg.Code == "25006"
	}
	var connect *pgconn.ConnectError
	var network net.Error
	return errors.As(err, &connect) || errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, pgconn.ErrConnClosed) ||
		errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT)
}
