package pg_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/francescobianco/packbase/storage/storagetest"
)

// The role of servers changes nothing that is published, and cannot give
// itself the right to.
func TestServerRole(t *testing.T) {
	t.Parallel()
	db := storagetest.NewDB(t)
	if over, err := db.Overpowered(t.Context()); over || err != nil {
		t.Errorf("the role of servers is overpowered: %v, %v", over, err)
	}
	for _, sql := range []string{
		`ALTER TABLE releases DISABLE TRIGGER ALL`,
		`ALTER TABLE releases DISABLE TRIGGER releases_frozen`,
		`DROP TRIGGER releases_frozen ON releases`,
		`CREATE TRIGGER mine BEFORE INSERT ON releases FOR EACH ROW EXECUTE FUNCTION refuse_frozen()`,
		`CREATE OR REPLACE FUNCTION refuse_frozen() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'`,
		`SET session_replication_role = replica`,
		`TRUNCATE releases CASCADE`,
		`TRUNCATE changes`,
		`DROP TABLE releases CASCADE`,
		`ALTER TABLE releases OWNER TO CURRENT_USER`,
		`CREATE TABLE mine (x int)`,
		`CREATE RULE mine AS ON DELETE TO releases DO INSTEAD NOTHING`,
		`DELETE FROM schema_migrations`,
		`COPY releases TO PROGRAM 'true'`,
		`SET ROLE packbase`,
	} {
		_, err := db.Pool.Exec(t.Context(), sql)
		var refused *pgconn.PgError
		if !errors.As(err, &refused) && err == nil {
			t.Errorf("%s: done, want refused", sql)
		} else if refused != nil && refused.Code != "42501" && refused.Code != "22023" {
			t.Errorf("%s: %s %s, want that the privilege is missing", sql, refused.Code, refused.Message)
		}
	}
	if _, err := db.Pool.Exec(t.Context(), `UPDATE releases SET package = package`); err != nil {
		t.Errorf("a statement that concerns no row: %v", err)
	}
}

// The owner is found to be more than a server needs.
func TestOwnerIsOverpowered(t *testing.T) {
	t.Parallel()
	owner := storagetest.NewOwner(t)
	if over, err := owner.Overpowered(t.Context()); !over || err != nil {
		t.Errorf("the owner is overpowered: %v, %v, want true", over, err)
	}
}

// A role that is made has no right but to connect and those that are granted to it.
func TestMadeRole(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	owner := storagetest.NewOwner(t)
	name := fmt.Sprintf("packbase_test_made_%x", rand.Uint64())
	t.Cleanup(func() {
		// Before the schema goes, whose rights would keep the role.
		if _, err := owner.Pool.Exec(context.Background(), fmt.Sprintf(`DROP OWNED BY %[1]s; DROP ROLE %[1]s`, name)); err != nil {
			t.Error(err)
		}
	})
	if err := owner.Admit(ctx, name, "secret"); err != nil {
		t.Fatal(err)
	}
	var login, more bool
	err := owner.Pool.QueryRow(ctx, `
		SELECT rolcanlogin, rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls
			OR EXISTS (SELECT FROM pg_auth_members WHERE member = pg_roles.oid)
		FROM pg_roles WHERE rolname = $1`, name).Scan(&login, &more)
	if err != nil || !login || more {
		t.Errorf("the role may connect: %t, and more than that: %t, %v; want to connect only", login, more, err)
	}
	if err := owner.Admit(ctx, name, "secret"); err != nil {
		t.Errorf("again: %v", err)
	}
}
