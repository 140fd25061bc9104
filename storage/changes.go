package storage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// A Change is one entry of the feed that edges follow: a release that was
// published.
type Change struct {
	Seq   int64           `json:"seq"`
	Body  json.RawMessage `json:"body"`  // a ChangeBody, byte for byte as it is chained
	Chain string          `json:"chain"` // NextChain of the previous change's
}

// A ChangeBody says which blobs make up a release. With them an edge has
// everything, and can check everything.
type ChangeBody struct {
	Package  string `json:"package"`
	Tag      string `json:"tag,omitempty"`
	Commit   string `json:"commit"`
	Manifest Blob   `json:"manifest"`
	Tarball  Blob   `json:"tarball"`
}

// NextChain returns the link that follows chain: SHA-256 of chain, a line
// feed and body, as hex. The first change follows "".
func NextChain(chain string, body []byte) string {
	sum := sha256.Sum256(append([]byte(chain+"\n"), body...))
	return hex.EncodeToString(sum[:])
}

// addChange appends a release to the feed. The lock makes the feed's order
// that of commits, without gaps.
func addChange(ctx context.Context, tx pgx.Tx, p Publication) error {
	r := &p.Release
	body, err := json.Marshal(ChangeBody{
		Package: r.Package, Tag: r.Tag, Commit: r.CommitOID, Manifest: p.Manifest, Tarball: Blob{r.Digest, r.Size},
	})
	if err != nil {
		return err
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
	_, err = tx.Exec(ctx, `INSERT INTO changes (seq, body, chain) VALUES ($1, $2, $3)`, seq+1, string(body), NextChain(chain, body))
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
		SELECT seq, body, chain FROM changes WHERE seq > $1 AND seq <= $2 ORDER BY seq LIMIT $3`, since, head.Seq, limit)
	var seq int64
	var body, chain string
	_, err = pgx.ForEachRow(rows, []any{&seq, &body, &chain}, func() error {
		changes = append(changes, Change{Seq: seq, Body: json.RawMessage(body), Chain: chain})
		return nil
	})
	if err != nil {
		return nil, head, fmt.Errorf("changes since %d: %w", since, translate(err))
	}
	return changes, head, nil
}

// BlobByDigest returns a blob that a row names, or ErrNotFound.
func (db *DB) BlobByDigest(ctx context.Context, digest string) (Blob, error) {
	b := Blob{Digest: digest}
	err := db.pool.QueryRow(ctx, `SELECT size FROM blobs WHERE digest = $1`, digest).Scan(&b.Size)
	if err != nil {
		return Blob{}, fmt.Errorf("blob %s: %w", digest, translate(err))
	}
	return b, nil
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

// Follow begins to follow central, or goes on. It returns ErrConflict if the
// registry follows another central: their histories would mix.
func (db *DB) Follow(ctx context.Context, central string) (Replication, error) {
	_, err := db.pool.Exec(ctx, `INSERT INTO replication (central) VALUES ($1) ON CONFLICT DO NOTHING`, central)
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
	_, err := db.pool.Exec(ctx, `UPDATE replication SET halted = '', seq = 0, chain = '', head = 0 WHERE halted <> ''`)
	if err != nil {
		return fmt.Errorf("resume replication: %w", translate(err))
	}
	return nil
}

// Advance notes that all up to the change is here.
func (db *DB) Advance(ctx context.Context, to Change) error {
	_, err := db.pool.Exec(ctx, `UPDATE replication SET seq = $1, chain = $2, synced_at = now()`, to.Seq, to.Chain)
	if err != nil {
		return fmt.Errorf("advance to change %d: %w", to.Seq, translate(err))
	}
	return nil
}
