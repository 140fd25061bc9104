package storage

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A Change is one entry of the feed that edges follow: a release that was
// published.
type Change struct {
	Seq   int64           `json:"seq"`
	Body  json.RawMessage `json:"body"`  // a ChangeBody, byte for byte as it is chained
	Chain string          `json:"chain"` // NextChain of the previous change's

	Secret   json.RawMessage `json:"secret,omitempty"`   // for those who see private packages: the body that Body only has the digest of
	Withheld bool            `json:"withheld,omitempty"` // what the body names is not served to this reader any more
}

// Open returns what the change says, and whether it is of a private package.
// It is nil if the reader may not know.
func (c *Change) Open() (body json.RawMessage, private bool, err error) {
	var sealed struct {
		Private string `json:"private"`
	}
	if err := json.Unmarshal(c.Body, &sealed); err != nil {
		return nil, false, fmt.Errorf("change %d is not readable: %w", c.Seq, err)
	}
	switch {
	case sealed.Private == "":
		return c.Body, false, nil
	case c.Secret == nil:
		return nil, true, nil
	case sealed.Private != NextChain("", c.Secret):
		return nil, true, fmt.Errorf("change %d: the secret is not the one that was chained", c.Seq)
	}
	return c.Secret, true, nil
}

// A ChangeBody says which blobs make up a release, with which an edge has
// everything and can check everything; or what was decided about a package.
type ChangeBody struct {
	Package  string `json:"package"`
	Tag      string `json:"tag,omitempty"`
	Commit   string `json:"commit,omitempty"`
	Manifest Blob   `json:"manifest,omitzero"`
	Tarball  Blob   `json:"tarball,omitzero"`
	Decision string `json:"decision,omitempty"` // "" for a release, else one of the Decision constants
	Reason   string `json:"reason,omitempty"`   // of a removal
	Nonce    string `json:"nonce,omitempty"`    // of a private package: keeps its body from being guessed
}

// Decisions that edges follow.
const (
	DecisionPrivate = "private" // the package is read with a token only
	DecisionPublic  = "public"  // anybody reads it
	DecisionRemoved = "removed" // the package, or with a commit one release of it, is never served again
)

// NextChain returns the link that follows chain: SHA-256 of chain, a line
// feed and body, as hex. The first change follows "".
func NextChain(chain string, body []byte) string {
	sum := sha256.Sum256(append([]byte(chain+"\n"), body...))
	return hex.EncodeToString(sum[:])
}

// addChange appends a release to the feed. The lock makes the feed's order
// that of commits, without gaps.
//
// Of a private package the feed has a digest, so that all edges hold the same
// chain; what it says is told to those who may know.
func addChange(ctx context.Context, tx pgx.Tx, change ChangeBody) error {
	var private bool
	if err := tx.QueryRow(ctx, `SELECT private FROM packages WHERE name = $1`, change.Package).Scan(&private); err != nil {
		return err
	}
	var secret *string
	if private {
		change.Nonce = rand.Text()
	}
	body, err := json.Marshal(change)
	if err != nil {
		return err
	}
	if private {
		text := string(body)
		secret, body = &text, fmt.Appendf(nil, `{"private":%q}`, NextChain("", body))
	}
	if _, err := tx.Exec(ctx, `LOCK TABLE changes IN EXCLUSIVE MODE`); err != nil {
		return err
	}
	var seq int64
	var chain string
	err = tx.QueryRow(ctx, `SELECT seq, chain FROM changes ORDER BY seq DESC LIMIT 1`).Scan(&seq, &chain)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO changes (seq, body, chain, secret) VALUES ($1, $2, $3, $4)`, seq+1, string(body), NextChain(chain, body), secret)
	return err
}

// Changes returns the changes after since, oldest first, and the newest there
// is: its number and chain, 0 and "" if there is none.
func (db *DB) Changes(ctx context.Context, since int64, limit int) (changes []Change, head Change, err error) {
	err = db.pool.QueryRow(ctx, `SELECT seq, chain FROM changes ORDER BY seq DESC LIMIT 1`).Scan(&head.Seq, &head.Chain)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, head, fmt.Errorf("head of changes: %w", translate(err))
	}
	// What came after the head was read is left for next time.
	rows, _ := db.pool.Query(ctx, `
		SELECT seq, body, chain, CASE WHEN $4 THEN COALESCE(secret, '') ELSE '' END,
			NOT seen(said ->> 'package', $4) OR EXISTS (
				SELECT FROM tombstones t
				WHERE t.package = said ->> 'package' AND t.commit_oid = said ->> 'commit' AND COALESCE(t.tag, '') = COALESCE(said ->> 'tag', ''))
		FROM changes, LATERAL (SELECT (CASE WHEN $4 THEN COALESCE(secret, body) ELSE body END)::jsonb AS said) s
		WHERE seq > $1 AND seq <= $2 ORDER BY seq LIMIT $3`, since, head.Seq, limit, SeesPrivate(ctx))
	var c Change
	var body, secret string
	_, err = pgx.ForEachRow(rows, []any{&c.Seq, &body, &c.Chain, &secret, &c.Withheld}, func() error {
		c.Body, c.Secret = json.RawMessage(body), nil
		if secret != "" {
			c.Secret = json.RawMessage(secret)
		}
		changes = append(changes, c)
		return nil
	})
	if err != nil {
		return nil, head, fmt.Errorf("changes since %d: %w", since, translate(err))
	}
	return changes, head, nil
}

// BlobByDigest returns a blob of a release or of a history, or ErrNotFound.
func (db *DB) BlobByDigest(ctx context.Context, digest string) (Blob, error) {
	b := Blob{Digest: digest}
	err := db.pool.QueryRow(ctx, `
		SELECT size FROM blobs
		WHERE digest = $1 AND EXISTS (SELECT FROM blob_names n WHERE n.digest = $1 AND n.served AND seen(n.package, $2))`, digest, SeesPrivate(ctx)).Scan(&b.Size)
	if err != nil {
		err = db.orGone(ctx, translate(err), `digest = $1 OR manifest_digest = $2`, digest, digest)
		return Blob{}, fmt.Errorf("blob %s: %w", digest, err)
	}
	return b, nil
}

// BlobBytes returns the size of all blobs that rows name.
func (db *DB) BlobBytes(ctx context.Context) (n int64, err error) {
	if err := db.pool.QueryRow(ctx, `SELECT COALESCE(sum(size), 0)::bigint FROM blobs`).Scan(&n); err != nil {
		return 0, fmt.Errorf("measure blobs: %w", translate(err))
	}
	return n, nil
}

// A Replication is how far an edge has followed its central.
type Replication struct {
	Central  string
	Seq      int64  // the last change that is here
	Chain    string // its chain
	Head     int64  // the last change that the central has
	Halted   string // why it stopped for good; "" while all is well
	SyncedAt *time.Time
}

// Replication returns where replication stands, or ErrNotFound on a registry
// that follows nobody.
func (db *DB) Replication(ctx context.Context) (Replication, error) {
	rows, _ := db.pool.Query(ctx, `SELECT central, seq, chain, head, halted, synced_at FROM replication`)
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Replication])
	if err != nil {
		return Replication{}, fmt.Errorf("replication: %w", translate(err))
	}
	return r, nil
}

// Follow begins to follow central, or goes on; private says whether it shows
// us private packages. When it newly does, the feed is read from its beginning.
// It returns ErrConflict if the registry follows another central: their
// histories would mix.
func (db *DB) Follow(ctx context.Context, central string, private bool) (Replication, error) {
	_, err := db.pool.Exec(ctx, `
		INSERT INTO replication AS r (central, private) VALUES ($1, $2)
		ON CONFLICT (one) DO UPDATE
		SET private = EXCLUDED.private,
			seq = CASE WHEN EXCLUDED.private AND NOT r.private THEN 0 ELSE r.seq END,
			chain = CASE WHEN EXCLUDED.private AND NOT r.private THEN '' ELSE r.chain END
		WHERE r.central = EXCLUDED.central`, central, private)
	if err != nil {
		return Replication{}, fmt.Errorf("follow %s: %w", central, translate(err))
	}
	r, err := db.Replication(ctx)
	if err != nil {
		return Replication{}, err
	}
	if r.Central != central {
		return Replication{}, fmt.Errorf("%w: this registry follows %s, not %s", ErrConflict, r.Central, central)
	}
	return r, nil
}

// Seen records what the central says of itself.
func (db *DB) Seen(ctx context.Context, head int64) error {
	_, err := db.pool.Exec(ctx, `UPDATE replication SET head = $1, synced_at = now()`, head)
	if err != nil {
		return fmt.Errorf("note head of central: %w", translate(err))
	}
	return nil
}

// Halt stops replication for good, until an operator clears it.
func (db *DB) Halt(ctx context.Context, reason string) error {
	_, err := db.pool.Exec(ctx, `UPDATE replication SET halted = $1 WHERE halted = ''`, reason)
	if err != nil {
		return fmt.Errorf("halt replication: %w", translate(err))
	}
	return nil
}

// Resume clears a halt. The feed is then read from its beginning, and what is
// here already is held to it: the central may have been restored, and have
// another history of the same releases.
func (db *DB) Resume(ctx context.Context) error {
	err := db.tx(ctx, func(tx pgx.Tx) error {
		resumed, err := tx.Exec(ctx, `UPDATE replication SET halted = '', seq = 0, chain = '', head = 0 WHERE halted <> ''`)
		if err == nil && resumed.RowsAffected() > 0 {
			_, err = tx.Exec(ctx, `DELETE FROM set_aside`) // their numbers are of the feed as it was
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("resume replication: %w", translate(err))
	}
	return nil
}

// Advance notes that all up to the change is here.
func (db *DB) Advance(ctx context.Context, to Change) error {
	if err := advance(ctx, db.pool, to); err != nil {
		return fmt.Errorf("advance to change %d: %w", to.Seq, translate(err))
	}
	return nil
}

func advance(ctx context.Context, q interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}, to Change) error {
	_, err := q.Exec(ctx, `UPDATE replication SET seq = $1, chain = $2, synced_at = now()`, to.Seq, to.Chain)
	return err
}
