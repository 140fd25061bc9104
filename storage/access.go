package storage

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

type seePrivateKey struct{}

// SeePrivate returns a context whose reads see private packages. Without it
// every read of this package takes them for not there: a reader that forgets
// to ask who it is for sees too little, and never too much.
func SeePrivate(ctx context.Context) context.Context {
	return context.WithValue(ctx, seePrivateKey{}, true)
}

// SeesPrivate reports whether reads with ctx see private packages.
func SeesPrivate(ctx context.Context) bool {
	see, _ := ctx.Value(seePrivateKey{}).(bool)
	return see
}

// HasPrivate reports whether there are private packages.
func (db *DB) HasPrivate(ctx context.Context) (has bool, err error) {
	if err := db.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM packages WHERE private)`).Scan(&has); err != nil {
		return false, fmt.Errorf("look for private packages: %w", translate(err))
	}
	return has, nil
}

// Epoch returns a number that is raised by whatever takes a right to read
// away. What was read before must not be shown after.
func (db *DB) Epoch(ctx context.Context) (epoch int64, err error) {
	if err := db.pool.QueryRow(ctx, `SELECT epoch FROM access`).Scan(&epoch); err != nil {
		return 0, fmt.Errorf("epoch of access: %w", translate(err))
	}
	return epoch, nil
}

// Scopes of a token. Each may do what those before it may.
const (
	ScopeRead  = "read"  // see private packages
	ScopeWrite = "write" // have packages mirrored
	ScopeAdmin = "admin" // decide about packages and tokens
)

// TokenPrefix begins every token that packbase makes.
const TokenPrefix = "pb_"

// A Token lets its bearer do what its scope says.
type Token struct {
	Name       string     `json:"name"`
	Scope      string     `json:"scope"`
	CreatedAt  time.Time  `json:"created_at"`
	ExpiresAt  *time.Time `json:"expires_at"`   // nil for never
	LastUsedAt *time.Time `json:"last_used_at"` // to the minute; nil before the first time
}

// Expired reports whether the token's time is over.
func (t *Token) Expired() bool { return t.ExpiresAt != nil && !time.Now().Before(*t.ExpiresAt) }

// tokenDigest is what is stored of a token. It needs no salt: tokens are
// random, and long.
func tokenDigest(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// CreateToken makes a token and returns its secret, which is nowhere stored.
// It consists of characters that mean nothing in a URL: Zig sends what stands
// there as it is. It returns ErrConflict if another one has the name.
func (db *DB) CreateToken(ctx context.Context, name, scope string, expires *time.Time) (t Token, secret string, err error) {
	switch scope {
	case ScopeRead, ScopeWrite, ScopeAdmin:
	default:
		return Token{}, "", invalid("scope", "%q is no scope; want read, write or admin", clip(scope))
	}
	if len(name) > MaxPackageName || !packageName.MatchString(name) {
		return Token{}, "", invalid("name", "%q is no name of a token: use letters, digits, '.', '_' and '-', beginning with a letter or digit", clip(name))
	}
	if expires != nil && !expires.After(time.Now()) {
		return Token{}, "", invalid("expires", "the token would have expired already")
	}
	secret = TokenPrefix + rand.Text()
	rows, _ := db.pool.Query(ctx, `
		INSERT INTO tokens (name, digest, scope, expires_at) VALUES ($1, $2, $3, $4)
		RETURNING name, scope, created_at, expires_at, last_used_at`, name, tokenDigest(secret), scope, expires)
	if t, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Token]); err != nil {
		return Token{}, "", fmt.Errorf("create token %q: %w", name, translate(err))
	}
	return t, secret, nil
}

// TokenBySecret returns the token, which may have expired, or ErrNotFound if
// there is none or it was revoked.
func (db *DB) TokenBySecret(ctx context.Context, secret string) (Token, error) {
	rows, _ := db.pool.Query(ctx, `
		SELECT name, scope, created_at, expires_at, last_used_at FROM tokens
		WHERE digest = $1 AND revoked_at IS NULL`, tokenDigest(secret))
	t, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Token])
	if err != nil {
		return Token{}, fmt.Errorf("find token: %w", translate(err))
	}
	return t, nil
}

// TokenUsed notes that a token was used.
func (db *DB) TokenUsed(ctx context.Context, name string) error {
	_, err := db.pool.Exec(ctx, `UPDATE tokens SET last_used_at = now() WHERE name = $1 AND revoked_at IS NULL`, name)
	if err != nil {
		return fmt.Errorf("note use of token %q: %w", name, translate(err))
	}
	return nil
}

// Tokens returns the tokens that were not revoked, by name.
func (db *DB) Tokens(ctx context.Context) ([]Token, error) {
	rows, _ := db.pool.Query(ctx, `
		SELECT name, scope, created_at, expires_at, last_used_at FROM tokens WHERE revoked_at IS NULL ORDER BY name`)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[Token])
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", translate(err))
	}
	return all, nil
}

// RevokeToken ends a token for good; its name may be given again.
// It returns ErrNotFound if there is none of that name.
func (db *DB) RevokeToken(ctx context.Context, name string) error {
	tag, err := db.pool.Exec(ctx, `UPDATE tokens SET revoked_at = now() WHERE lower(name) = $1 AND revoked_at IS NULL`, strings.ToLower(name))
	if err == nil && tag.RowsAffected() == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("revoke token %q: %w", name, translate(err))
	}
	return nil
}

// MakePrivate hides the claimed package from all who have no token.
// Nothing may have been published under it: what was public stays so until
// somebody decides (see Freeze).
func (db *DB) MakePrivate(ctx context.Context, c Claim) error {
	err := db.tx(ctx, func(tx pgx.Tx) error {
		if err := holdFence(ctx, tx, c); err != nil {
			return err
		}
		return setPrivate(ctx, tx, c.Job.Package, true)
	})
	if err != nil {
		return fmt.Errorf("make %s private: %w", c.Job.Package, translate(err))
	}
	return nil
}

// SetVisibility makes a package private, or public. Edges do so, too; those
// that may not see private packages are given what is in it when it becomes
// public. It returns ErrNotFound if there is no such package.
func (db *DB) SetVisibility(ctx context.Context, pkg string, private bool) error {
	err := db.tx(ctx, func(tx pgx.Tx) error {
		var name string
		var was bool
		err := tx.QueryRow(ctx, `
			SELECT name, private FROM packages WHERE lower(name) = lower($1) AND ($2 OR NOT private) FOR UPDATE`, pkg, SeesPrivate(ctx)).Scan(&name, &was)
		if err != nil || was == private {
			return err
		}
		return changeVisibility(ctx, tx, name, private)
	})
	if err != nil {
		return fmt.Errorf("set visibility of %q: %w", pkg, translate(err))
	}
	return nil
}

func changeVisibility(ctx context.Context, tx pgx.Tx, pkg string, private bool) error {
	if private {
		// While it is public, so that every edge may know.
		if err := addChange(ctx, tx, ChangeBody{Package: pkg, Decision: DecisionPrivate}); err != nil {
			return err
		}
		return setPrivate(ctx, tx, pkg, true)
	}
	if err := setPrivate(ctx, tx, pkg, false); err != nil {
		return err
	}
	if err := addChange(ctx, tx, ChangeBody{Package: pkg, Decision: DecisionPublic}); err != nil {
		return err
	}
	releases, err := releasesOf(ctx, tx, pkg)
	if err != nil {
		return err
	}
	for _, r := range releases {
		c := ChangeBody{Package: pkg, Tag: r.Tag, Commit: r.CommitOID, Tarball: Blob{r.Digest, r.Size}, Manifest: Blob{Digest: r.ManifestDigest}}
		if err := tx.QueryRow(ctx, `SELECT size FROM blobs WHERE digest = $1`, r.ManifestDigest).Scan(&c.Manifest.Size); err != nil {
			return err
		}
		if err := addChange(ctx, tx, c); err != nil {
			return err
		}
	}
	return nil
}

func setPrivate(ctx context.Context, tx pgx.Tx, pkg string, private bool) error {
	_, err := tx.Exec(ctx, `UPDATE packages SET private = $2, revision = revision + 1 WHERE name = $1`, pkg, private)
	return err
}
