// Package feed is the change feed that edges follow, and how far an edge has
// followed its central: format and SQL.
package feed

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

	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/pg"
)

// A Store reads and writes the feed, and how far an edge has followed another one. It is safe for concurrent use;
// each method is one transaction.
type Store struct {
	db *pg.DB
}

func New(db *pg.DB) *Store { return &Store{db} }

// A Change is one entry of the feed that edges follow: a release that was
// published.
type Change struct {
	Seq   int64           `json:"seq"`
	Body  json.RawMessage `json:"body"`  // a ChangeBody, byte for byte as it is chained
	Chain string          `json:"chain"` // NextChain of the previous change's

	Secret   json.RawMessage `json:"secret,omitempty"`   // for those who see private packages: the body that Body only has the digest of
	News     json.RawMessage `json:"news,omitempty"`     // the same of what is no release, for all who may know
	Withheld bool            `json:"withheld,omitempty"` // what the body names is not served to this reader any more
	Private  bool            `json:"private,omitempty"`  // the package is private by now, whatever the body says: told to those who see it
}

// Open returns what the change says, and whether it is of a package that was private then or is now.
// It is nil if the reader may not know.
func (c *Change) Open() (body json.RawMessage, private bool, err error) {
	var sealed struct {
		Private string `json:"private"`
	}
	if err := json.Unmarshal(c.Body, &sealed); err != nil {
		return nil, false, fmt.Errorf("change %d is not readable: %w", c.Seq, err)
	}
	opened := c.Secret
	if opened == nil {
		opened = c.News
	}
	switch {
	case sealed.Private == "":
		return c.Body, c.Private, nil
	case opened == nil:
		return nil, true, nil
	case sealed.Private != NextChain("", opened):
		return nil, true, fmt.Errorf("change %d: what it says is not what was chained", c.Seq)
	}
	var guarded struct {
		Nonce string `json:"nonce"`
	}
	if err := json.Unmarshal(opened, &guarded); err != nil {
		return nil, true, fmt.Errorf("change %d is not readable: %w", c.Seq, err)
	}
	return opened, guarded.Nonce != "" || c.Private, nil
}

// A Body says which blobs make up a release, with which an edge has
// everything and can check everything; or what was decided about a package.
type Body struct {
	Package  string   `json:"package"`
	Tag      string   `json:"tag,omitempty"`
	Commit   string   `json:"commit,omitempty"`
	Manifest blob.Ref `json:"manifest,omitzero"`
	Tarball  blob.Ref `json:"tarball,omitzero"`
	Decision string   `json:"decision,omitempty"` // "" for a release, else one of the Decision constants
	Reason   string   `json:"reason,omitempty"`   // of a removal
	Nonce    string   `json:"nonce,omitempty"`    // of a private package: keeps its body from being guessed

	// News, which is of no release.
	Branch  string   `json:"branch,omitempty"`  // of Package, is at Commit
	Aside   bool     `json:"aside,omitempty"`   // HEAD does not go with Branch
	Renamed string   `json:"renamed,omitempty"` // what Package is called from now on
	Archive *Archive `json:"archive,omitempty"`
	Tree    *Tree    `json:"tree,omitempty"`
}

// IsNews reports whether the change is of no release.
func (b *Body) IsNews() bool {
	return b.Branch != "" || b.Renamed != "" || b.Archive != nil || b.Tree != nil
}

// An Archive says which blobs make up what a URL answered.
type Archive struct {
	URL     string   `json:"url"`
	Record  blob.Ref `json:"record"`
	Body    blob.Ref `json:"body"`
	Tarball blob.Ref `json:"tarball"`
}

// A Tree says which blob tells of one revision of a dependency tree; with a decision, its name alone.
type Tree struct {
	Name     string   `json:"name"`
	Revision int      `json:"revision,omitempty"`
	Record   blob.Ref `json:"record,omitzero"`
}

// Decisions that edges follow.
const (
	DecisionPrivate = "private" // the package, or the tree, is read with a token only
	DecisionPublic  = "public"  // anybody reads it
	DecisionRemoved = "removed" // the package, or with a commit one release of it, is never served again
)

// NextChain returns the link that follows chain: SHA-256 of chain, a line
// feed and body, as hex. The first change follows "".
func NextChain(chain string, body []byte) string {
	sum := sha256.Sum256(append([]byte(chain+"\n"), body...))
	return hex.EncodeToString(sum[:])
}

// Add appends a release to the feed. The lock makes the feed's order
// that of commits, without gaps.
//
// Of a private package the feed has a digest, so that all edges hold the same
// chain; what it says is told to those who may know.
func Add(ctx context.Context, tx pgx.Tx, change Body) error {
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
		secret, body = &text, seal(body)
	}
	return appendChange(ctx, tx, body, secret, nil, private)
}

// AddNews appends what is no release. Edges that know of releases alone take it for a private package that they may
// not see, and go on: its body has a digest, and what it says stands beside it.
func AddNews(ctx context.Context, tx pgx.Tx, news Body, private bool) error {
	if private {
		news.Nonce = rand.Text()
	}
	raw, err := json.Marshal(news)
	if err != nil {
		return err
	}
	text := string(raw)
	return appendChange(ctx, tx, seal(raw), nil, &text, private)
}

// seal returns a body that tells nothing of what it stands for.
func seal(body []byte) []byte { return fmt.Appendf(nil, `{"private":%q}`, NextChain("", body)) }

func appendChange(ctx context.Context, tx pgx.Tx, body []byte, secret, news *string, private bool) error {
	if _, err := tx.Exec(ctx, `LOCK TABLE changes IN EXCLUSIVE MODE`); err != nil {
		return err
	}
	var seq int64
	var chain string
	err := tx.QueryRow(ctx, `SELECT seq, chain FROM changes ORDER BY seq DESC LIMIT 1`).Scan(&seq, &chain)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO changes (seq, body, chain, secret, news, news_private) VALUES ($1, $2, $3, $4, $5, $6)`,
		seq+1, string(body), NextChain(chain, body), secret, news, news != nil && private)
	return err
}

// Changes returns the changes after since, oldest first, and the newest there
// is: its number and chain, 0 and "" if there is none.
func (s *Store) Changes(ctx context.Context, since int64, limit int) (changes []Change, head Head, err error) {
	err = s.db.Pool.QueryRow(ctx, `SELECT seq, chain FROM changes ORDER BY seq DESC LIMIT 1`).Scan(&head.Seq, &head.Chain)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, head, fmt.Errorf("head of changes: %w", pg.Translate(err))
	}
	// What came after the head was read is left for next time.
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT seq, body, chain, COALESCE(secret, ''), CASE WHEN withheld THEN '' ELSE COALESCE(news, '') END, withheld, private
		FROM (
			SELECT seq, body, chain, secret, news, NOT seen(said ->> 'package', $4) OR EXISTS (
				SELECT FROM tombstones t
				WHERE t.package = said ->> 'package' AND t.commit_oid = said ->> 'commit' AND COALESCE(t.tag, '') = COALESCE(said ->> 'tag', ''))
				OR said ->> 'decision' IS NULL AND (
					EXISTS (SELECT FROM archive_tombstones t WHERE t.url = said -> 'archive' ->> 'url')
					OR said -> 'tree' IS NOT NULL AND NOT EXISTS (
						SELECT FROM tree_revisions t
						WHERE t.record_digest = said -> 'tree' -> 'record' ->> 'digest' AND ($4 OR NOT private_tree(t.tree, t.revision)))) AS withheld,
				$4 AND NOT seen(said ->> 'package', false) AS private
			FROM (
				SELECT seq, body, chain, CASE WHEN $4 THEN secret END AS secret, CASE WHEN $4 OR NOT news_private THEN news END AS news
				FROM changes WHERE seq > $1 AND seq <= $2 ORDER BY seq LIMIT $3) c,
				LATERAL (SELECT COALESCE(secret, news, body)::jsonb AS said) s) w
		ORDER BY seq`, since, head.Seq, limit, access.SeesPrivate(ctx))
	var c Change
	var body, secret, news string
	_, err = pgx.ForEachRow(rows, []any{&c.Seq, &body, &c.Chain, &secret, &news, &c.Withheld, &c.Private}, func() error {
		c.Body, c.Secret, c.News = json.RawMessage(body), nil, nil
		if secret != "" {
			c.Secret = json.RawMessage(secret)
		}
		if news != "" {
			c.News = json.RawMessage(news)
		}
		changes = append(changes, c)
		return nil
	})
	if err != nil {
		return nil, head, fmt.Errorf("changes since %d: %w", since, pg.Translate(err))
	}
	return changes, head, nil
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
func (s *Store) Replication(ctx context.Context) (Replication, error) {
	rows, _ := s.db.Pool.Query(ctx, `SELECT central, seq, chain, head, halted, synced_at FROM replication`)
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Replication])
	if err != nil {
		return Replication{}, fmt.Errorf("replication: %w", pg.Translate(err))
	}
	return r, nil
}

// Follow begins to follow central, or goes on; private says whether it shows
// us private packages. When it newly does, or an older packbase read it, which
// did not know news, the feed is read from its beginning.
// It returns ErrConflict if the registry follows another central: their
// histories would mix.
func (s *Store) Follow(ctx context.Context, central string, private bool) (Replication, error) {
	_, err := s.db.Pool.Exec(ctx, `
		INSERT INTO replication AS r (central, private, news) VALUES ($1, $2, true)
		ON CONFLICT (one) DO UPDATE
		SET private = EXCLUDED.private, news = true,
			seq = CASE WHEN EXCLUDED.private AND NOT r.private OR NOT r.news THEN 0 ELSE r.seq END,
			chain = CASE WHEN EXCLUDED.private AND NOT r.private OR NOT r.news THEN '' ELSE r.chain END
		WHERE r.central = EXCLUDED.central`, central, private)
	if err != nil {
		return Replication{}, fmt.Errorf("follow %s: %w", central, pg.Translate(err))
	}
	r, err := s.Replication(ctx)
	if err != nil {
		return Replication{}, err
	}
	if r.Central != central {
		return Replication{}, fmt.Errorf("%w: this registry follows %s, not %s", fault.ErrConflict, r.Central, central)
	}
	return r, nil
}

// Seen records what the central says of itself.
func (s *Store) Seen(ctx context.Context, head int64) error {
	_, err := s.db.Pool.Exec(ctx, `UPDATE replication SET head = $1, synced_at = now()`, head)
	if err != nil {
		return fmt.Errorf("note head of central: %w", pg.Translate(err))
	}
	return nil
}

// Halt stops replication for good, until an operator clears it.
func (s *Store) Halt(ctx context.Context, reason string) error {
	_, err := s.db.Pool.Exec(ctx, `UPDATE replication SET halted = $1 WHERE halted = ''`, reason)
	if err != nil {
		return fmt.Errorf("halt replication: %w", pg.Translate(err))
	}
	return nil
}

// Resume clears a halt. The feed is then read from its beginning, and what is
// here already is held to it: the central may have been restored, and have
// another history of the same releases.
func (s *Store) Resume(ctx context.Context) error {
	err := s.db.Tx(ctx, func(tx pgx.Tx) error {
		resumed, err := tx.Exec(ctx, `UPDATE replication SET halted = '', seq = 0, chain = '', head = 0 WHERE halted <> ''`)
		if err == nil && resumed.RowsAffected() > 0 {
			_, err = tx.Exec(ctx, `DELETE FROM set_aside`) // their numbers are of the feed as it was
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("resume replication: %w", pg.Translate(err))
	}
	return nil
}

// Advance notes that all up to the change is here.
func (s *Store) Advance(ctx context.Context, to Change) error {
	if err := advance(ctx, s.db.Pool, to); err != nil {
		return fmt.Errorf("advance to change %d: %w", to.Seq, pg.Translate(err))
	}
	return nil
}

func advance(ctx context.Context, q interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}, to Change) error {
	_, err := q.Exec(ctx, `UPDATE replication SET seq = $1, chain = $2, synced_at = now()`, to.Seq, to.Chain)
	return err
}
