// Package tree is the SQL of trees and archives: what a project depends on, and what URLs answered.
package tree

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/pg"
)

// A Store asks Postgres. It is safe for concurrent use. Errors are those of package fault, wrapped.
type Store struct{ db *pg.DB }

// New returns the store of a database.
func New(db *pg.DB) *Store { return &Store{db} }

// States of a revision.
const (
	Open  = "open"  // a capture is under way
	Whole = "whole" // every node is stored
	Holes = "holes" // some could not be had
)

// States of a node.
const (
	Waiting = "waiting"
	Stored  = "stored"
	Hole    = "hole"
)

// A Root is a manifest that a capture begins with.
type Root struct {
	File string `json:"file"` // relative to the project, with slashes
	Text string `json:"text"`
}

// A Problem is a dependency that cannot be a node.
type Problem struct {
	Parent string `json:"parent,omitempty"` // hash of the node that names it; "" for a root
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// A Tree is a project's dependencies, at one revision.
type Tree struct {
	Name      string
	Revision  int
	State     string
	Nodes     int        // how many it has
	Missing   int        // of them, those that are not stored
	SizeBytes int64      // of the tarballs of those that are
	Lost      int        // how many upstream has no more, or has other files of
	Untold    int        // of how many it did not say, when it was last asked
	CheckedAt *time.Time // when the first of them was last asked for there; nil if it never was
	Private   bool       // only who sees private packages may be shown it
	CreatedAt time.Time
	UpdatedAt time.Time
}

// A Try is a way in which a node could not be had.
type Try struct {
	Kind    string `json:"kind"`
	URL     string `json:"url"`
	Ref     string `json:"ref,omitempty"`
	Code    string `json:"code,omitempty"` // "" while it is being tried
	Message string `json:"message,omitempty"`
}

// A Node is a dependency in a tree.
type Node struct {
	Hash          string // as manifests pin it
	URLs          []string
	Parents       []string // hashes of nodes; "" for a root
	Lazy          bool
	Depth         int
	State         string
	Code, Reason  string // why it is a hole
	Tried         []Try
	Job           *uuid.UUID // that is to bring it
	UpstreamState string     // "", "same", "moved", "gone" or "away"
	UpstreamAt    *time.Time
}

// A Capture is the job that brings one revision of a tree.
type Capture struct {
	Tree     string // as it is spelled
	Revision int
	Job      uuid.UUID
	Created  bool // the job is new, and the queue has to be told of it
}

// Begin has a tree captured that starts with the given manifests: a new revision, if they differ from those of the
// newest one. private says that only those may see it who see private packages; it is never taken back here.
// A revision that is under way goes on. What is a hole stays one; see Retry.
func (s *Store) Begin(ctx context.Context, name string, roots []Root, private bool) (c Capture, err error) {
	encoded, err := json.Marshal(roots)
	if err != nil {
		return Capture{}, fmt.Errorf("begin tree %s: %w", name, err)
	}
	digest := digestOf(encoded)
	err = s.db.Tx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `
			INSERT INTO trees (name, revision) VALUES ($1, 0) ON CONFLICT (lower(name)) DO NOTHING`, name); err != nil {
			return err
		}
		var held string
		err := tx.QueryRow(ctx, `
			SELECT t.name, t.revision, COALESCE((
				SELECT roots_digest FROM tree_revisions r WHERE r.tree = t.name AND r.revision = t.revision), '')
			FROM trees t WHERE lower(t.name) = lower($1) FOR UPDATE`, name).Scan(&c.Tree, &c.Revision, &held)
		if err != nil {
			return err
		}
		if held != digest {
			c.Revision++
			if _, err := tx.Exec(ctx, `
				INSERT INTO tree_revisions (tree, revision, roots, roots_digest) VALUES ($1, $2, $3, $4)`,
				c.Tree, c.Revision, encoded, digest); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, `UPDATE trees SET revision = $2, updated_at = now() WHERE name = $1`, c.Tree, c.Revision); err != nil {
			return err
		}
		if private {
			if err := hide(ctx, tx, c.Tree); err != nil {
				return err
			}
		}
		return c.open(ctx, tx)
	})
	if err != nil {
		return Capture{}, fmt.Errorf("begin tree %s: %w", name, pg.Translate(err))
	}
	return c, nil
}

func digestOf(roots []byte) string {
	sum := sha256.Sum256(roots)
	return hex.EncodeToString(sum[:])
}

// Retry has the holes of a tree's newest revision tried again, in every way. It returns fault.ErrNotFound if there is
// no such tree.
func (s *Store) Retry(ctx context.Context, name string) (c Capture, err error) {
	err = s.db.Tx(ctx, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `
			SELECT name, revision FROM trees WHERE lower(name) = lower($1) FOR UPDATE`, name).Scan(&c.Tree, &c.Revision)
		if err != nil {
			return err
		}
		if err := c.open(ctx, tx); err != nil || !c.Created {
			return err
		}
		_, err = tx.Exec(ctx, `
			UPDATE tree_nodes SET state = 'waiting', code = '', reason = '', tried = '[]', job = NULL
			WHERE tree = $1 AND revision = $2 AND state = 'hole'`, c.Tree, c.Revision)
		return err
	})
	if err != nil {
		return Capture{}, fmt.Errorf("retry tree %s: %w", name, pg.Translate(err))
	}
	return c, nil
}

// open finds the open job of the revision, or makes one. The tree's row is locked.
func (c *Capture) open(ctx context.Context, tx pgx.Tx) error {
	job, created, err := addJob(ctx, tx, jobs.CaptureTree, c.Tree, strconv.Itoa(c.Revision), false)
	if err != nil || !created {
		c.Job = job
		return err
	}
	c.Job, c.Created = job, true
	_, err = tx.Exec(ctx, `
		UPDATE tree_revisions SET state = 'open', ended_at = NULL WHERE tree = $1 AND revision = $2`, c.Tree, c.Revision)
	return err
}

// RequestArchive returns the open job that downloads a URL, a new one (created) or one that is open already. pin is the
// Zig hash that it has to have; "" for whatever comes.
func (s *Store) RequestArchive(ctx context.Context, url, pin string) (job uuid.UUID, created bool, err error) {
	return s.requestArchive(ctx, url, pin, false)
}

// RequestPull is RequestArchive for clients without a token.
func (s *Store) RequestPull(ctx context.Context, url string) (job uuid.UUID, created bool, err error) {
	return s.requestArchive(ctx, url, "", true)
}

func (s *Store) requestArchive(ctx context.Context, url, pin string, pull bool) (job uuid.UUID, created bool, err error) {
	err = s.db.Tx(ctx, func(tx pgx.Tx) error {
		job, created, err = addJob(ctx, tx, jobs.FetchArchive, url, pin, pull)
		return err
	})
	if err != nil {
		return uuid.Nil, false, fmt.Errorf("request archive %s: %w", url, pg.Translate(err))
	}
	return job, created, nil
}

// addJob inserts a job without a package, or finds the open one that is the same. That one is held until the
// transaction ends: it does not end unseen.
func addJob(ctx context.Context, tx pgx.Tx, kind, target, pin string, pull bool) (id uuid.UUID, created bool, err error) {
	if id, err = uuid.NewV7(); err != nil {
		return uuid.Nil, false, fmt.Errorf("make job id: %w", err)
	}
	for {
		tag, err := tx.Exec(ctx, `
			INSERT INTO jobs (id, kind, target, pin, pull) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`, id, kind, target, pin, pull)
		if err != nil || tag.RowsAffected() == 1 {
			return id, err == nil, err
		}
		var held uuid.UUID
		err = tx.QueryRow(ctx, `
			SELECT id FROM jobs
			WHERE kind = $1 AND package = '' AND target = $2 AND pin = $3 AND state IN ('queued', 'running') FOR UPDATE`, kind, target, pin).Scan(&held)
		if err == nil && !pull {
			err = jobs.Adopt(ctx, tx, held)
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return held, false, err
		}
	}
}

// Wake has the captures go on at once that wait for a job, and returns their jobs, of which the queue is to be told.
func (s *Store) Wake(ctx context.Context, job uuid.UUID) ([]uuid.UUID, error) {
	rows, _ := s.db.Pool.Query(ctx, `
		UPDATE jobs SET run_at = now(), enqueued_at = now()
		WHERE kind = 'tree:capture' AND state = 'queued' AND run_at > now()
			AND (target, pin) IN (SELECT tree, revision::text FROM tree_nodes WHERE job = $1)
		RETURNING id`, job)
	woken, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("wake captures: %w", pg.Translate(err))
	}
	return woken, nil
}

// PackageOf returns the package that mirrors an upstream, canonical, or fault.ErrNotFound.
func (s *Store) PackageOf(ctx context.Context, upstream string) (name string, err error) {
	err = s.db.Pool.QueryRow(ctx, `
		SELECT name FROM packages WHERE upstream = $1 AND state <> 'removed' AND ($2 OR NOT private)
		ORDER BY release_count + snapshot_count = 0, created_at LIMIT 1`, upstream, access.SeesPrivate(ctx)).Scan(&name)
	if err != nil {
		return "", fmt.Errorf("package of %s: %w", upstream, pg.Translate(err))
	}
	return name, nil
}

// A Commit is one of an upstream, canonical.
type Commit struct{ Upstream, OID string }

// Mirrored returns those of commits that are served as commits of their upstreams.
func (s *Store) Mirrored(ctx context.Context, commits []Commit) (map[Commit]bool, error) {
	upstreams, ids := make([]string, len(commits)), make([]string, len(commits))
	for i, c := range commits {
		upstreams[i], ids[i] = c.Upstream, c.OID
	}
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT upstream, oid FROM unnest($1::text[], $2::text[]) AS want (upstream, oid)
		WHERE EXISTS (SELECT FROM packages p JOIN served_releases r ON r.package = p.name WHERE p.upstream = want.upstream AND r.commit_oid = want.oid)`,
		upstreams, ids)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Commit])
	if err != nil {
		return nil, fmt.Errorf("which commits are mirrored: %w", pg.Translate(err))
	}
	all := map[Commit]bool{}
	for _, c := range found {
		all[c] = true
	}
	return all, nil
}

// Roots returns the manifests of a revision, or fault.ErrNotFound.
func (s *Store) Roots(ctx context.Context, name string, revision int) (roots []Root, err error) {
	var raw []byte
	err = s.db.Pool.QueryRow(ctx, `
		SELECT roots FROM tree_revisions WHERE lower(tree) = lower($1) AND revision = $2`, name, revision).Scan(&raw)
	if err == nil {
		err = json.Unmarshal(raw, &roots)
	}
	if err != nil {
		return nil, fmt.Errorf("roots of tree %s: %w", name, pg.Translate(err))
	}
	return roots, nil
}

// Put stores what a capture knows of a revision's nodes. A node that the revision had, and nodes lacks, goes. state is
// the revision's. It returns jobs.ErrLost if another worker has taken over the capture.
func (s *Store) Put(ctx context.Context, name string, revision int, state string, nodes []Node, problems []Problem) error {
	encoded, err := json.Marshal(problems)
	if err != nil {
		return fmt.Errorf("store tree %s: %w", name, err)
	}
	err = s.db.Tx(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			UPDATE tree_revisions SET state = $3, problems = $4, ended_at = CASE WHEN $3 = 'open' THEN NULL ELSE now() END, recorded_at = NULL
			WHERE lower(tree) = lower($1) AND revision = $2`, name, revision, state, encoded)
		if err == nil && tag.RowsAffected() == 0 {
			return fault.ErrNotFound
		}
		if err != nil {
			return err
		}
		if err := putNodes(ctx, tx, name, revision, nodes); err != nil {
			return err
		}
		return jobs.HoldLease(ctx, tx)
	})
	if err != nil {
		return fmt.Errorf("store tree %s: %w", name, pg.Translate(err))
	}
	return nil
}

// nodesAtOnce are sent together: a transaction that waits longer for what is being encoded is ended as one that froze.
const nodesAtOnce = 200

func putNodes(ctx context.Context, tx pgx.Tx, name string, revision int, nodes []Node) error {
	hashes := make([]string, len(nodes))
	for i, n := range nodes {
		hashes[i] = n.Hash
	}
	for part := range slices.Chunk(nodes, nodesAtOnce) {
		batch := &pgx.Batch{}
		for _, n := range part {
			queueNode(batch, name, revision, n)
		}
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
	}
	_, err := tx.Exec(ctx, `DELETE FROM tree_nodes WHERE lower(tree) = lower($1) AND revision = $2 AND hash <> ALL($3)`, name, revision, hashes)
	return err
}

func queueNode(batch *pgx.Batch, name string, revision int, n Node) {
	tried := n.Tried
	if tried == nil {
		tried = []Try{}
	}
	batch.Queue(`
		INSERT INTO tree_nodes AS n (tree, revision, hash, urls, parents, lazy, depth, state, code, reason, tried, job)
		SELECT t.name, @revision, @hash, @urls, @parents, @lazy, @depth, @state, @code, @reason, @tried, @job
		FROM trees t WHERE lower(t.name) = lower(@tree)
		ON CONFLICT (tree, revision, hash) DO UPDATE
		SET urls = EXCLUDED.urls, parents = EXCLUDED.parents, lazy = EXCLUDED.lazy, depth = EXCLUDED.depth,
			state = EXCLUDED.state, code = EXCLUDED.code, reason = EXCLUDED.reason, tried = EXCLUDED.tried, job = EXCLUDED.job
		WHERE (n.urls, n.parents, n.lazy, n.depth, n.state, n.code, n.reason, n.tried, n.job)
			IS DISTINCT FROM (EXCLUDED.urls, EXCLUDED.parents, EXCLUDED.lazy, EXCLUDED.depth, EXCLUDED.state, EXCLUDED.code, EXCLUDED.reason,
				EXCLUDED.tried, EXCLUDED.job)`,
		pgx.NamedArgs{"tree": name, "revision": revision, "hash": n.Hash, "urls": n.URLs, "parents": n.Parents, "lazy": n.Lazy,
			"depth": n.Depth, "state": n.State, "code": n.Code, "reason": n.Reason, "tried": tried, "job": n.Job})
}

// Nodes returns the nodes of a revision, nearest first, and what cannot be one.
func (s *Store) Nodes(ctx context.Context, name string, revision int) (nodes []Node, problems []Problem, err error) {
	var raw []byte
	err = s.db.Pool.QueryRow(ctx, `
		SELECT problems FROM tree_revisions WHERE lower(tree) = lower($1) AND revision = $2`, name, revision).Scan(&raw)
	if err == nil {
		err = json.Unmarshal(raw, &problems)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("nodes of tree %s: %w", name, pg.Translate(err))
	}
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT hash, urls, parents, lazy, depth, state, code, reason, tried, job, upstream_state, upstream_at
		FROM tree_nodes WHERE tree = (SELECT name FROM trees WHERE lower(name) = lower($1)) AND revision = $2 ORDER BY depth, hash`, name, revision)
	nodes, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Node])
	if err != nil {
		return nil, nil, fmt.Errorf("nodes of tree %s: %w", name, pg.Translate(err))
	}
	return nodes, problems, nil
}

// selectTrees is without its end. A tree is as private as anything in it.
const selectTrees = `
	SELECT t.name, t.revision, CASE WHEN r.state = 'whole' AND n.missing > 0 THEN 'holes' ELSE r.state END, n.nodes, n.missing, n.size, n.lost, n.untold, n.checked_at, n.private OR t.private AS private, t.created_at, t.updated_at
	FROM trees t JOIN tree_revisions r ON r.tree = t.name AND r.revision = t.revision
	CROSS JOIN LATERAL (
		SELECT count(*) AS nodes, count(*) FILTER (WHERE h.state <> 'stored' OR s.size IS NULL OR s.damaged) AS missing,
			COALESCE(sum(s.size), 0)::bigint AS size, COALESCE(bool_or(COALESCE(s.private, ` + hidden + `)), false) AS private,
			count(*) FILTER (WHERE h.upstream_state IN ('gone', 'moved')) AS lost,
			count(*) FILTER (WHERE h.upstream_state = 'away') AS untold,
			CASE WHEN bool_and(h.upstream_at IS NOT NULL) THEN min(h.upstream_at) END AS checked_at
		FROM tree_nodes h LEFT JOIN LATERAL (` + bestSource + `) s ON true
		WHERE h.tree = t.name AND h.revision = t.revision) n
	WHERE ($3 OR NOT (n.private OR t.private))`

// ByName returns a tree, or fault.ErrNotFound.
func (s *Store) ByName(ctx context.Context, name string) (Tree, error) {
	rows, _ := s.db.Pool.Query(ctx, selectTrees+` AND lower(t.name) = lower($1)`, name, true, access.SeesPrivate(ctx))
	t, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Tree])
	if err != nil {
		return Tree{}, fmt.Errorf("tree %s: %w", name, pg.Translate(err))
	}
	return t, nil
}

// List returns trees by name, those after the given one.
func (s *Store) List(ctx context.Context, after string, limit int) ([]Tree, error) {
	rows, _ := s.db.Pool.Query(ctx, selectTrees+` AND lower(t.name) > lower($1) ORDER BY lower(t.name) LIMIT $4`, after, true, access.SeesPrivate(ctx), limit)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Tree])
	if err != nil {
		return nil, fmt.Errorf("trees: %w", pg.Translate(err))
	}
	return all, nil
}
