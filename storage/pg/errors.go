package pg

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/francescobianco/packbase/storage/fault"
)

// Translate maps what Postgres says to the errors of package fault.
// https://www.postgresql.org/docs/current/errcodes-appendix.html
func Translate(err error) error {
	var pg *pgconn.PgError
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return fault.ErrNotFound
	case errors.As(err, &pg) && (pg.Code == "57014" || isTransient(err)): // query_canceled: it took too long, and may the next time; so may others be in the way
		return err
	case IsAway(err) && !errors.Is(err, fault.ErrAway):
		return fmt.Errorf("%w: %w", fault.ErrAway, err)
	case pg == nil:
		return err
	}
	switch pg.Code {
	case "23505", "23000": // unique_violation; refuse_frozen
		return fmt.Errorf("%w: %v", fault.ErrConflict, err)
	case "23503": // foreign_key_violation
		return fmt.Errorf("%w: %v", fault.ErrNotFound, err)
	case "23514", "22P02", "22021", "22P05", "22001": // check, text representation, not in repertoire (NUL in JSON, too), too long
		return fmt.Errorf("%w: %v", fault.ErrInvalid, err)
	}
	return err
}

// isTransient reports whether the same transaction may succeed when it is
// run again: serialization failures and deadlocks, and on a standby what its primary's changes are at odds with.
func isTransient(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "40001" || pg.Code == "40P01")
}

// IsAway reports whether err means that Postgres cannot be reached or cannot
// take more work now, so that the same may succeed soon.
func IsAway(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		// connection exceptions, insufficient resources, operator intervention, read-only, stood still in a transaction
		return isTransient(err) || pg.Code[:2] == "08" || pg.Code[:2] == "53" || pg.Code[:2] == "57" || pg.Code == "25006" || pg.Code == "25P03"
	}
	var connect *pgconn.ConnectError
	var network net.Error
	return errors.As(err, &connect) || errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, pgconn.ErrConnClosed) ||
		errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT)
}
