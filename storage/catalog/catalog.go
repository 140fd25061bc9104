// Package catalog is the list of packages that updates mirror: its format and
// its SQL.
package catalog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/pg"
)

// A Store reads and writes the catalog. It is safe for concurrent use;
// each method is one transaction.
type Store struct {
	db *pg.DB
}

func New(db *pg.DB) *Store { return &Store{db} }

// An Entry is one package as the catalog lists it.
type Entry struct {
	ID          string
	Name        string
	Upstream    string // canonical
	CloneURL    string
	Language    string
	Description string
	Updated     string `db:"source_updated"` // updated_at as the catalog writes it
	Policy      Policy
	Problem     string // why the entry is not used; "" when it is
}

// A Diff is how a catalog differs from the one before.
type Diff struct{ Added, Updated, Removed int }

// Replace replaces the stored catalog by one that was downloaded whole.
// Entries are told apart by ID. A removed entry's package stays. It returns jobs.ErrLost if another worker has taken over the update.
func (s *Store) Replace(ctx context.Context, source, digest string, entries []Entry) (diff Diff, err error) {
	err = s.db.Tx(ctx, func(tx pgx.Tx) error {
		diff = Diff{}
		held, err := catalogEntries(ctx, tx)
		if err != nil {
			return err
		}
		known := make(map[string]Entry, len(held))
		for _, e := range held {
			known[e.ID] = e
		}
		var others []Entry
		var updated []string
		for _, e := range entries {
			old, ok := known[e.ID]
			delete(known, e.ID)
			switch {
			case !ok:
				diff.Added++
			case !reflect.DeepEqual(old, e):
				diff.Updated++
				updated = append(updated, e.ID)
			default:
				continue
			}
			others = append(others, e)
		}
		diff.Removed = len(known)
		batch := &pgx.Batch{}
		batch.Queue(`DELETE FROM catalog_entries WHERE id = ANY($1)`, slices.Collect(maps.Keys(known)))
		// Names move between entries: they are cleared before any is set.
		batch.Queue(`UPDATE catalog_entries SET problem = 'replaced' WHERE id = ANY($1)`, updated)
		for _, e := range others {
			queueEntry(batch, e)
		}
		batch.Queue(`
			UPDATE packages p SET registered = c.id IS NOT NULL, language = COALESCE(c.language, p.language)
			FROM packages q LEFT JOIN catalog_entries c ON lower(first_name(c.name)) = lower(q.name) AND c.upstream = q.upstream AND c.problem = ''
			WHERE q.name = p.name AND (p.registered <> (c.id IS NOT NULL) OR p.language <> COALESCE(c.language, p.language))`)
		batch.Queue(`
			INSERT INTO catalog (source, digest, fetched_at) VALUES ($1, $2, now())
			ON CONFLICT (one) DO UPDATE
			SET source = EXCLUDED.source, digest = EXCLUDED.digest, fetched_at = now(), error_code = '', error_message = ''`, source, digest)
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
		return jobs.HoldLease(ctx, tx)
	})
	if err != nil {
		return Diff{}, fmt.Errorf("store catalog: %w", pg.Translate(err))
	}
	return diff, nil
}

func queueEntry(batch *pgx.Batch, e Entry) {
	batch.Queue(`
		INSERT INTO catalog_entries AS c (id, name, upstream, clone_url, language, description, source_updated, policy, problem)
		VALUES (@id, @name, @upstream, @clone_url, @language, @description, @updated, @policy, @problem)
		ON CONFLICT (id) DO UPDATE
		SET name = EXCLUDED.name, upstream = EXCLUDED.upstream, clone_url = EXCLUDED.clone_url, language = EXCLUDED.language,
			description = EXCLUDED.description, source_updated = EXCLUDED.source_updated, policy = EXCLUDED.policy, problem = EXCLUDED.problem,
			synced_updated = CASE WHEN c.policy = EXCLUDED.policy THEN c.synced_updated ELSE '' END`,
		pgx.NamedArgs{"id": e.ID, "name": e.Name, "upstream": e.Upstream, "clone_url": e.CloneURL, "language": e.Language,
			"description": e.Description, "updated": e.Updated, "policy": e.Policy, "problem": e.Problem})
}

func catalogEntries(ctx context.Context, tx pgx.Tx) ([]Entry, error) {
	rows, _ := tx.Query(ctx, `
		SELECT id, name, upstream, clone_url, language, description, source_updated, policy, problem FROM catalog_entries`)
	return pgx.CollectRows(rows, pgx.RowToStructByName[Entry])
}

// Digest returns the digest of the stored catalog, "" if there is none
// from that source.
func (s *Store) Digest(ctx context.Context, source string) (digest string, err error) {
	err = s.db.Pool.QueryRow(ctx, `SELECT digest FROM catalog WHERE source = $1`, source).Scan(&digest)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return "", fmt.Errorf("catalog digest: %w", pg.Translate(err))
	}
	return digest, nil
}

// Failed records that the catalog could not be had. What is stored of
// it stays.
func (s *Store) Failed(ctx context.Context, source, code, message string) error {
	_, err := s.db.Pool.Exec(ctx, `
		INSERT INTO catalog (source, error_code, error_message) VALUES ($1, $2, $3)
		ON CONFLICT (one) DO UPDATE SET error_code = EXCLUDED.error_code, error_message = EXCLUDED.error_message`,
		source, code, message)
	if err != nil {
		return fmt.Errorf("record catalog failure: %w", pg.Translate(err))
	}
	return nil
}

// Listed returns what the catalog's entry for pkg says now, under whichever of its names: its updated_at and, if it is of
// that upstream, its policy. Both are zero if there is none.
func (s *Store) Listed(ctx context.Context, pkg, upstream string) (updated string, policy Policy, err error) {
	err = s.db.Pool.QueryRow(ctx, `
		SELECT source_updated, CASE WHEN upstream = $2 THEN policy ELSE '{}' END FROM catalog_entries
		WHERE problem = '' AND lower(name) IN (SELECT lower($1) UNION ALL SELECT lower(n.name) FROM package_names n WHERE n.package = $1)
		ORDER BY lower(name) <> lower($1), id LIMIT 1`, pkg, upstream).Scan(&updated, &policy)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return "", Policy{}, fmt.Errorf("catalog entry of %s: %w", pkg, pg.Translate(err))
	}
	return updated, policy, nil
}

// A Candidate is a package that an update may have to look at.
type Candidate struct {
	ID       string // of the catalog's entry; "" for a fixture
	Name     string
	Upstream string
	CloneURL string
	Language string
	Text     string // the catalog's description
	Policy   Policy
	Fresh    bool    // nothing changed since the last good sync
	Waiting  bool    // failed lately, so that its next try is later, or is not active
	Failing  bool    // Waiting, as it failed
	Seen     string  // as jobs.Sync has it: while upstream lists what it did, nothing is to be done; "" if something is to be, or may well be
	Releases int     // that are here
	Due      float64 // the time since the last good sync, as a part of the time since its latest release, and a day
}

// retried is the SQL of whether there is a rejected tag that is to be tried again.
const retried = `EXISTS (SELECT FROM rejected_tags r WHERE r.package = p.name AND (r.rules <> $1 OR r.retry_at <= now())
	AND NOT EXISTS (SELECT FROM releases WHERE package = p.name AND tag = r.tag))`

// Candidates returns all that the catalog lists and that can be used. What was
// mirrored on request alone is not for updates, which anybody may start.
//
// Fresh is what has an unchanged, non-empty updated_at in the catalog, a
// release, a last sync that succeeded, no branch, and no rejected tag that is to
// be tried again: its time has come, or it was judged by other rules. Where the
// policy has a refresh interval, that has not passed since the last sync, and
// branches and an empty updated_at do not matter.
func (s *Store) Candidates(ctx context.Context, rules string) ([]Candidate, error) {
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT c.id, c.name, c.upstream, c.clone_url, c.language, c.description AS text, c.policy, COALESCE(p.release_count, 0) AS releases,
			COALESCE(extract(epoch FROM now() - p.synced_at)
				/ extract(epoch FROM GREATEST(now() - (SELECT commit_time FROM releases WHERE package = p.name AND tag = p.latest_tag), '0') + '1 day'), 0)::float8 AS due,
			CASE WHEN c.synced_updated = c.source_updated AND p.sync_ok AND p.registered AND p.upstream = c.upstream AND p.clone_url = c.clone_url AND p.language = c.language
				AND c.description IN ('', p.description) AND NOT `+retried+` THEN p.refs_seen ELSE '' END AS seen,
			COALESCE(c.synced_updated = c.source_updated AND p.sync_ok AND p.upstream = c.upstream
				AND CASE WHEN c.policy ? 'refresh_interval_seconds'
					THEN p.synced_at > now() - make_interval(secs => (c.policy ->> 'refresh_interval_seconds')::int) AND (p.release_count > 0 OR p.head_oid <> '')
					ELSE c.source_updated <> '' AND p.release_count > 0 AND NOT c.policy ? 'branches'
						AND NOT EXISTS (SELECT FROM branches b WHERE b.package = p.name) END
				AND NOT `+retried+`, false) AS fresh,
			COALESCE(p.state <> 'active' OR p.next_sync_at > now() AND p.upstream = c.upstream, false) AS waiting,
			COALESCE(p.state = 'active' AND p.next_sync_at > now() AND p.upstream = c.upstream AND NOT p.sync_ok, false) AS failing
		FROM catalog_entries c LEFT JOIN packages p ON lower(p.name) = lower(first_name(c.name))
		WHERE c.problem = '' ORDER BY c.name`, rules)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[Candidate])
	if err != nil {
		return nil, fmt.Errorf("candidates: %w", pg.Translate(err))
	}
	return all, nil
}

// Unchanged records a good sync of candidates whose upstream lists what it did at the last one, and returns how many of these
// are still as they were.
func (s *Store) Unchanged(ctx context.Context, all []Candidate) (n int, err error) {
	var ids, upstreams, seen []string
	for i := range all {
		ids, upstreams, seen = append(ids, all[i].ID), append(upstreams, all[i].Upstream), append(seen, all[i].Seen)
	}
	err = s.db.Pool.QueryRow(ctx, `
		WITH same AS (
			UPDATE packages p SET sync_at = now(), synced_at = now()
			FROM unnest($1::text[], $2::text[], $3::text[]) AS c (id, upstream, seen)
			WHERE p.upstream = c.upstream AND p.refs_seen = c.seen AND p.sync_ok AND p.state = 'active'
			RETURNING c.id),
		marked AS (UPDATE catalog_entries e SET synced_updated = e.source_updated FROM same WHERE e.id = same.id)
		SELECT count(DISTINCT id) FROM same`, ids, upstreams, seen).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("unchanged packages: %w", pg.Translate(err))
	}
	return n, nil
}

// Mark records why a catalog entry cannot be used.
func (s *Store) Mark(ctx context.Context, id, problem string) error {
	_, err := s.db.Pool.Exec(ctx, `UPDATE catalog_entries SET problem = $2 WHERE id = $1`, id, problem)
	if err != nil {
		return fmt.Errorf("mark entry %s: %w", id, pg.Translate(err))
	}
	return nil
}

// Problems returns the entries that are not used, with the reason.
func (s *Store) Problems(ctx context.Context, limit int) ([]Entry, error) {
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT id, name, upstream, clone_url, language, description, source_updated, policy, problem
		FROM catalog_entries WHERE problem <> '' ORDER BY id LIMIT $1`, limit)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[Entry])
	if err != nil {
		return nil, fmt.Errorf("catalog problems: %w", pg.Translate(err))
	}
	return all, nil
}

// State returns why the catalog could not be had the last time, and
// when it last was; "" if all is well or there is none.
func (s *Store) State(ctx context.Context, source string) (problem string, fetchedAt *time.Time, err error) {
	rows, _ := s.db.Pool.Query(ctx, `SELECT error_message AS problem, fetched_at FROM catalog WHERE source = $1`, source)
	type state struct {
		Problem   string
		FetchedAt *time.Time
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[state])
	if err != nil {
		return "", nil, fmt.Errorf("catalog state: %w", pg.Translate(err))
	}
	if len(all) == 0 {
		return "", nil, nil
	}
	return all[0].Problem, all[0].FetchedAt, nil
}
