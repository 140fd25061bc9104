// Package access knows who may see what: tokens and their scopes, and whether
// a read sees private packages.
package access

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/pg"
)

// A Store reads and writes tokens, and what may be read without one. It is safe for concurrent use;
// each method is one transaction.
type Store struct {
	db *pg.DB
}

func New(db *pg.DB) *Store { return &Store{db} }

type privateKey struct{}

// SeePrivate returns a context whose reads see private packages. Without it
// every read of this package takes them for not there: a reader that forgets
// to ask who it is for sees too little, and never too much.
func SeePrivate(ctx context.Context) context.Context {
	return context.WithValue(ctx, privateKey{}, true)
}

// HidePrivate returns a context whose reads see what strangers see.
func HidePrivate(ctx context.Context) context.Context {
	return context.WithValue(ctx, privateKey{}, false)
}

// SeesPrivate reports whether reads with ctx see private packages.
func SeesPrivate(ctx context.Context) bool {
	sees, _ := ctx.Value(privateKey{}).(bool)
	return sees
}

// HasPrivate reports whether there are private packages.
func (s *Store) HasPrivate(ctx context.Context) (has bool, err error) {
	if err := s.db.Pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM packages WHERE private)`).Scan(&has); err != nil {
		return false, fmt.Errorf("look for private packages: %w", pg.Translate(err))
	}
	return has, nil
}

// Epoch returns a text that is another one after whatever takes a right to read
// away, and in a dump that was restored, which has tables of its own. What was read before must not be shown after.
func (s *Store) Epoch(ctx context.Context) (epoch string, err error) {
	if err := s.db.Pool.QueryRow(ctx, `SELECT concat_ws(' ', to_regclass('packages')::oid, epoch) FROM access`).Scan(&epoch); err != nil {
		return "", fmt.Errorf("epoch of access: %w", pg.Translate(err))
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
func (s *Store) CreateToken(ctx context.Context, name, scope string, expires *time.Time) (t Token, secret string, err error) {
	switch scope {
	case ScopeRead, ScopeWrite, ScopeAdmin:
	default:
		return Token{}, "", fault.Invalid("scope", "%q is no scope; want read, write or admin", fault.Clip(scope))
	}
	if err := validName(name); err != nil {
		return Token{}, "", err
	}
	if expires != nil && !expires.After(time.Now()) {
		return Token{}, "", fault.Invalid("expires", "the token would have expired already")
	}
	secret = TokenPrefix + rand.Text()
	rows, _ := s.db.Pool.Query(ctx, `
		INSERT INTO tokens (name, digest, scope, expires_at) VALUES ($1, $2, $3, $4)
		RETURNING name, scope, created_at, expires_at, last_used_at`, name, tokenDigest(secret), scope, expires)
	if t, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Token]); err != nil {
		return Token{}, "", fmt.Errorf("create token %q: %w", name, pg.Translate(err))
	}
	return t, secret, nil
}

func validName(s string) error {
	if !name.IsWord(s) {
		return fault.Invalid("name", "%q is no name of a token: use letters, digits, '.', '_' and '-', beginning with a letter or digit", fault.Clip(s))
	}
	return nil
}

// TokenBySecret returns the token, which may have expired, or ErrNotFound if
// there is none or it was revoked.
func (s *Store) TokenBySecret(ctx context.Context, secret string) (Token, error) {
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT name, scope, created_at, expires_at, last_used_at FROM tokens
		WHERE digest = $1 AND revoked_at IS NULL`, tokenDigest(secret))
	t, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Token])
	if err != nil {
		return Token{}, fmt.Errorf("find token: %w", pg.Translate(err))
	}
	return t, nil
}

// TokenUsed notes that a token was used.
func (s *Store) TokenUsed(ctx context.Context, name string) error {
	_, err := s.db.Pool.Exec(ctx, `UPDATE tokens SET last_used_at = now() WHERE name = $1 AND revoked_at IS NULL`, name)
	if err != nil {
		return fmt.Errorf("note use of token %q: %w", name, pg.Translate(err))
	}
	return nil
}

// Tokens returns the tokens that were not revoked, by name.
func (s *Store) Tokens(ctx context.Context) ([]Token, error) {
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT name, scope, created_at, expires_at, last_used_at FROM tokens WHERE revoked_at IS NULL ORDER BY name`)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[Token])
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", pg.Translate(err))
	}
	return all, nil
}

// RevokeToken ends a token for good; its name may be given again.
// It returns ErrNotFound if there is none of that name.
func (s *Store) RevokeToken(ctx context.Context, name string) error {
	tag, err := s.db.Pool.Exec(ctx, `UPDATE tokens SET revoked_at = now() WHERE lower(name) = $1 AND revoked_at IS NULL`, strings.ToLower(name))
	if err == nil && tag.RowsAffected() == 0 {
		err = fault.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("revoke token %q: %w", name, pg.Translate(err))
	}
	return nil
}
