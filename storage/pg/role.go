package pg

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Admit lets role read and write the rows of the schema, and do nothing else
// to it: a server that strangers took over can switch off no trigger, so that
// what is published stays. It makes the role, with password, if there is none.
// The caller's own role is the owner's; it needs CREATEROLE for that only.
func (db *DB) Admit(ctx context.Context, role, password string) error {
	conn, err := db.Connect(ctx)
	if err != nil {
		return fmt.Errorf("admit role: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := makeRole(ctx, conn, role, password); err != nil {
		return fmt.Errorf("admit role %q: %w", role, err)
	}
	const grant = `
		SELECT format('
			GRANT USAGE ON SCHEMA %1$I TO %2$I;
			GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %1$I TO %2$I;
			GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA %1$I TO %2$I;
			REVOKE INSERT, UPDATE, DELETE ON %1$I.schema_migrations FROM %2$I', current_schema(), $1::text)`
	var statements string
	err = conn.QueryRow(ctx, grant, role).Scan(&statements)
	if err == nil {
		_, err = conn.Exec(ctx, statements)
	}
	if err != nil {
		return fmt.Errorf("admit role %q: %w", role, err)
	}
	return nil
}

func makeRole(ctx context.Context, conn *pgx.Conn, role, password string) error {
	const query = `
		SELECT current_user = $1, EXISTS (SELECT FROM pg_roles WHERE rolname = $1),
			format('CREATE ROLE %I LOGIN PASSWORD %L', $1::text, $2::text)`
	var owner, exists bool
	var create string
	if err := conn.QueryRow(ctx, query, role, password).Scan(&owner, &exists, &create); err != nil {
		return err
	}
	if owner {
		return errors.New("it is the owner's own; servers need another one")
	}
	if exists {
		return nil
	}
	_, err := conn.Exec(ctx, create)
	var known *pgconn.PgError
	if errors.As(err, &known) {
		// Somebody else was quicker; or the statement, with the password in it, failed.
		if known.Code == "42710" || known.Code == "23505" {
			return nil
		}
		return fmt.Errorf("make it: %s; an administrator has to make it, with LOGIN and the password of PACKBASE_DATABASE_URL", known.Message)
	}
	return err
}

// Overpowered reports whether the role that db connects as could switch the
// triggers off that keep releases as they are.
func (db *DB) Overpowered(ctx context.Context) (bool, error) {
	const query = `
		SELECT rolsuper OR EXISTS (
			SELECT FROM pg_class
			WHERE relname = 'releases' AND relnamespace = current_schema()::regnamespace
				AND (pg_has_role(relowner, 'MEMBER') OR has_table_privilege(oid, 'TRIGGER')))
		FROM pg_roles WHERE rolname = current_user`
	var over bool
	if err := db.Pool.QueryRow(ctx, query).Scan(&over); err != nil {
		return false, fmt.Errorf("look at own role: %w", err)
	}
	return over, nil
}
