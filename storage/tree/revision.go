package tree

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/capture"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/feed"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/pg"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/strangejson"
)

// maxRevision leaves room for those that are captured after a record of strangers was taken over.
const maxRevision = 1_000_000_000

// A RevisionRecord is the JSON blob from which one revision of a tree, whose capture has ended, can be made again.
type RevisionRecord struct {
	Format    int            `json:"packbase_tree"` // 1
	Tree      string         `json:"tree"`
	Revision  int            `json:"revision"`
	Private   bool           `json:"private,omitempty"` // the tree is, or something in it
	State     string         `json:"state"`             // Whole or Holes
	Roots     []Root         `json:"roots"`
	Problems  []Problem      `json:"problems,omitempty"`
	Nodes     []RecordedNode `json:"nodes"`
	CreatedAt time.Time      `json:"created_at"`
	EndedAt   time.Time      `json:"ended_at"`
}

// A RecordedNode is what stays true of a Node wherever its tree is.
type RecordedNode struct {
	Hash    string   `json:"hash"`
	URLs    []string `json:"urls"`
	Parents []string `json:"parents"`
	Lazy    bool     `json:"lazy,omitempty"`
	Depth   int      `json:"depth"`
	State   string   `json:"state"` // Stored or Hole
	Code    string   `json:"code,omitempty"`
	Reason  string   `json:"reason,omitempty"`
	Tried   []Try    `json:"tried,omitempty"`
}

// Encode returns the record's bytes.
func (r *RevisionRecord) Encode() ([]byte, error) { return release.EncodeDocument(r) }

// Same reports whether two records tell the same, apart from when.
func (r *RevisionRecord) Same(other *RevisionRecord) bool {
	a, b := *r, *other
	a.EndedAt = b.EndedAt
	left, err := a.Encode()
	right, bad := b.Encode()
	return err == nil && bad == nil && bytes.Equal(left, right)
}

// IsRevisionRecord tells a record, as Encode writes it, from other documents.
func IsRevisionRecord(raw []byte) bool {
	return bytes.HasPrefix(raw, []byte("{\n  \"packbase_tree\": "))
}

// ParseRevisionRecord reads a record's bytes. It returns a fault.ErrInvalid if no packbase has such a tree.
func ParseRevisionRecord(raw []byte) (*RevisionRecord, error) {
	var r RevisionRecord
	if err := strangejson.Unmarshal(raw, &r); err != nil {
		return nil, fault.Invalid("", "the record of a tree is not readable: %v", err)
	}
	if r.Format != 1 {
		return nil, fault.Invalid("", "the record of a tree has format %d, this packbase knows 1", r.Format)
	}
	if err := name.ValidPackage(r.Tree); err != nil {
		return nil, err
	}
	if r.Revision < 1 || r.Revision > maxRevision || r.State != Whole && r.State != Holes || r.CreatedAt.IsZero() || r.EndedAt.IsZero() || len(r.Nodes) > capture.MaxNodes {
		return nil, fault.Invalid("", "the record of the tree %s is none of an ended capture", r.Tree)
	}
	for i := range r.Nodes {
		if err := r.Nodes[i].check(); err != nil {
			return nil, fmt.Errorf("record of the tree %s: %w", r.Tree, err)
		}
	}
	return &r, nil
}

func (n *RecordedNode) check() error {
	if n.Hash == "" || n.URLs == nil || n.Parents == nil || n.State != Stored && n.State != Hole || n.Depth < 0 || n.Depth > capture.MaxNodes {
		return fault.Invalid("", "%.100q is no package of an ended capture", n.Hash)
	}
	for _, s := range append([]string{n.Hash, n.Code, n.Reason}, append(n.URLs, n.Parents...)...) {
		if strings.ContainsRune(s, 0) {
			return fault.Invalid("", "%.100q has a NUL in it", n.Hash)
		}
	}
	for _, raw := range n.URLs {
		if u, err := url.Parse(raw); err == nil && u.User != nil {
			return fault.Invalid("url", "a URL of %.100q has a user, which is never stored", n.Hash)
		}
	}
	return nil
}

func (n *RecordedNode) node() Node {
	return Node{Hash: n.Hash, URLs: n.URLs, Parents: n.Parents, Lazy: n.Lazy, Depth: n.Depth, State: n.State, Code: n.Code, Reason: n.Reason, Tried: n.Tried}
}

// A Revision is one of a tree whose capture has ended.
type Revision struct {
	Tree     string
	Revision int
	Record   string // the blob that tells of it; "" if there is none
}

// UnrecordedRevisions returns those of which the record may not say what the rows do.
func (s *Store) UnrecordedRevisions(ctx context.Context, limit int) ([]Revision, error) {
	return s.revisions(ctx, `recorded_at IS NULL AND ended_at IS NOT NULL ORDER BY ended_at, tree, revision LIMIT $1`, limit)
}

// RecordedRevisions returns those of which a blob tells.
func (s *Store) RecordedRevisions(ctx context.Context, digest string) ([]Revision, error) {
	return s.revisions(ctx, `record_digest = $1 AND ended_at IS NOT NULL`, digest)
}

// EndedRevisions returns all.
func (s *Store) EndedRevisions(ctx context.Context) ([]Revision, error) {
	return s.revisions(ctx, `ended_at IS NOT NULL ORDER BY tree, revision`)
}

func (s *Store) revisions(ctx context.Context, where string, args ...any) ([]Revision, error) {
	rows, _ := s.db.Pool.Query(ctx, `SELECT tree, revision, COALESCE(record_digest, '') FROM tree_revisions WHERE `+where, args...)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Revision])
	if err != nil {
		return nil, fmt.Errorf("revisions of trees: %w", pg.Translate(err))
	}
	return all, nil
}

// RevisionRecord returns what the rows say of a revision, or fault.ErrNotFound if its capture goes on.
func (s *Store) RevisionRecord(ctx context.Context, name string, revision int) (*RevisionRecord, error) {
	r := &RevisionRecord{Format: 1, Tree: name, Revision: revision, Nodes: []RecordedNode{}}
	var roots, problems []byte
	err := s.db.Pool.QueryRow(ctx, `
		SELECT state, roots, problems, private_tree(tree, revision), created_at, ended_at FROM tree_revisions
		WHERE tree = $1 AND revision = $2 AND ended_at IS NOT NULL`, name, revision).Scan(&r.State, &roots, &problems, &r.Private, &r.CreatedAt, &r.EndedAt)
	if err == nil {
		err = errors.Join(json.Unmarshal(roots, &r.Roots), json.Unmarshal(problems, &r.Problems))
	}
	if err != nil {
		return nil, fmt.Errorf("record of tree %s: %w", name, pg.Translate(err))
	}
	r.CreatedAt, r.EndedAt = r.CreatedAt.UTC(), r.EndedAt.UTC()
	nodes, _, err := s.Nodes(ctx, name, revision)
	for _, n := range nodes {
		r.Nodes = append(r.Nodes, RecordedNode{Hash: n.Hash, URLs: n.URLs, Parents: n.Parents, Lazy: n.Lazy, Depth: n.Depth,
			State: n.State, Code: n.Code, Reason: n.Reason, Tried: n.Tried})
	}
	return r, err
}

// SetRevisionRecord names the blob of a record, and tells edges of it; with no blob, it notes that the one there is says
// the same. If the capture has gone on meanwhile, nothing happens.
func (s *Store) SetRevisionRecord(ctx context.Context, r *RevisionRecord, in blob.Ref) error {
	err := s.db.Tx(ctx, func(tx pgx.Tx) error {
		if err := putBlob(ctx, tx, in); err != nil {
			return err
		}
		var old string
		err := tx.QueryRow(ctx, `
			SELECT COALESCE(r.record_digest, '') FROM trees t JOIN tree_revisions r ON r.tree = t.name
			WHERE t.name = $1 AND r.revision = $2 AND r.ended_at = $3 FOR UPDATE`, r.Tree, r.Revision, r.EndedAt).Scan(&old)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		return r.name(ctx, tx, old, in)
	})
	if err != nil {
		return fmt.Errorf("set record of tree %s: %w", r.Tree, pg.Translate(err))
	}
	return nil
}

func putBlob(ctx context.Context, tx pgx.Tx, b blob.Ref) error {
	if b.Digest == "" {
		return nil
	}
	_, err := tx.Exec(ctx, `INSERT INTO blobs (digest, size) VALUES ($1, $2) ON CONFLICT (digest) DO NOTHING`, b.Digest, b.Size)
	return err
}

// name names the blob of the record, and announces it if it is another one than old, or strangers were told that the tree
// is private.
func (r *RevisionRecord) name(ctx context.Context, tx pgx.Tx, old string, in blob.Ref) error {
	_, err := tx.Exec(ctx, `
		UPDATE tree_revisions SET recorded_at = now(), record_digest = COALESCE(NULLIF($3, ''), record_digest),
			record_private = CASE WHEN $3 = '' THEN record_private ELSE $4 END
		WHERE tree = $1 AND revision = $2`, r.Tree, r.Revision, in.Digest, r.Private)
	if err != nil || in.Digest == "" {
		return err
	}
	untold := false
	if r.Private {
		err = tell(ctx, tx, r.Tree)
	} else {
		told, terr := tx.Exec(ctx, `UPDATE trees SET told = true WHERE name = $1 AND NOT told`, r.Tree)
		untold, err = told.RowsAffected() > 0, terr
	}
	if err != nil || in.Digest == old && !untold {
		return err
	}
	return feed.AddNews(ctx, tx, feed.Body{Tree: &feed.Tree{Name: r.Tree, Revision: r.Revision, Record: in}}, r.Private)
}

// hide has a tree seen by those alone who see private packages.
func hide(ctx context.Context, tx pgx.Tx, name string) error {
	changed, err := tx.Exec(ctx, `UPDATE trees SET private = true WHERE name = $1 AND NOT private`, name)
	if err != nil || changed.RowsAffected() == 0 {
		return err
	}
	if _, err := tx.Exec(ctx, `UPDATE tree_revisions SET recorded_at = NULL WHERE tree = $1`, name); err != nil {
		return err
	}
	return tell(ctx, tx, name)
}

// tell has those edges hide a tree that were told of it and may not see it any more. If that is for an older revision
// alone, the newest is told of again.
func tell(ctx context.Context, tx pgx.Tx, name string) error {
	told, err := tx.Exec(ctx, `UPDATE trees SET told = false WHERE name = $1 AND told`, name)
	if err != nil || told.RowsAffected() == 0 {
		return err
	}
	if err := feed.AddNews(ctx, tx, feed.Body{Tree: &feed.Tree{Name: name}, Decision: feed.DecisionPrivate}, false); err != nil {
		return err
	}
	newest := &feed.Tree{Name: name}
	err = tx.QueryRow(ctx, `
		UPDATE trees t SET told = true FROM tree_revisions r JOIN blobs b ON b.digest = r.record_digest
		WHERE t.name = $1 AND r.tree = t.name AND r.revision = t.revision AND NOT r.record_private AND NOT private_tree(t.name, t.revision)
		RETURNING r.revision, b.digest, b.size`, name).Scan(&newest.Revision, &newest.Record.Digest, &newest.Record.Size)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return feed.AddNews(ctx, tx, feed.Body{Tree: newest}, false)
}

// Hide does what a central decided of a tree that may be here.
func (s *Store) Hide(ctx context.Context, name string) error {
	err := s.db.Tx(ctx, func(tx pgx.Tx) error { return hide(ctx, tx, name) })
	if err != nil {
		return fmt.Errorf("hide tree %s: %w", name, pg.Translate(err))
	}
	return nil
}

// Adopt makes the revision of which a record tells, itself the blob in, and its tree. It is what the record says then,
// whatever it was before; the tree is as private as the record of its newest revision.
func (s *Store) Adopt(ctx context.Context, r *RevisionRecord, in blob.Ref) error {
	roots, err := json.Marshal(r.Roots)
	if err != nil {
		return fmt.Errorf("adopt tree %s: %w", r.Tree, err)
	}
	err = s.db.Tx(ctx, func(tx pgx.Tx) error {
		if err := putBlob(ctx, tx, in); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `
			INSERT INTO trees AS t (name, revision, private, created_at, updated_at) VALUES ($1, $2, $3, $4, $4)
			ON CONFLICT (name) DO UPDATE SET revision = GREATEST(t.revision, EXCLUDED.revision),
				private = CASE WHEN EXCLUDED.revision >= t.revision THEN EXCLUDED.private ELSE t.private END,
				created_at = LEAST(t.created_at, EXCLUDED.created_at), updated_at = GREATEST(t.updated_at, EXCLUDED.updated_at)`,
			r.Tree, r.Revision, r.Private, r.CreatedAt); err != nil {
			return err
		}
		return r.adopt(ctx, tx, roots, in)
	})
	if err != nil {
		return fmt.Errorf("adopt tree %s: %w", r.Tree, pg.Translate(err))
	}
	return nil
}

func (r *RevisionRecord) adopt(ctx context.Context, tx pgx.Tx, roots []byte, in blob.Ref) error {
	var old string
	err := tx.QueryRow(ctx, `
		SELECT COALESCE(record_digest, '') FROM tree_revisions WHERE tree = $1 AND revision = $2`, r.Tree, r.Revision).Scan(&old)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	problems := append([]Problem{}, r.Problems...)
	if _, err := tx.Exec(ctx, `
		INSERT INTO tree_revisions (tree, revision, roots, roots_digest, state, problems, created_at, ended_at)
		VALUES (@tree, @revision, @roots, @digest, @state, @problems, @created_at, @ended_at)
		ON CONFLICT (tree, revision) DO UPDATE SET roots = EXCLUDED.roots, roots_digest = EXCLUDED.roots_digest, state = EXCLUDED.state,
			problems = EXCLUDED.problems, created_at = EXCLUDED.created_at, ended_at = EXCLUDED.ended_at`,
		pgx.NamedArgs{"tree": r.Tree, "revision": r.Revision, "roots": roots, "digest": digestOf(roots), "state": r.State,
			"problems": problems, "created_at": r.CreatedAt, "ended_at": r.EndedAt}); err != nil {
		return err
	}
	nodes := make([]Node, len(r.Nodes))
	for i := range r.Nodes {
		nodes[i] = r.Nodes[i].node()
	}
	if err := putNodes(ctx, tx, r.Tree, r.Revision, nodes); err != nil {
		return err
	}
	return r.name(ctx, tx, old, in)
}
