package tree

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/archive"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/feed"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/pg"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/scrub"
)

// An Archive is what one URL answered, frozen.
type Archive struct {
	ID            int64
	URL           string // as name.Dependency has it
	ZigHash       string // as Zig 0.14 and later print it; "" if they would refuse
	ZigLegacyHash string
	Digest        string // of the bytes as they came
	Size          int64
	ContentType   string // as upstream sent it
	Disposition   string
	FinalURL      string // after redirects; "" if there were none
	Format        string // see package archive
	TarballDigest string // of what Zig is given
	TarballSize   int64
	RecordDigest  string // of the JSON from which the row can be rebuilt, see Record
	RecordSize    int64  `db:"-"` // of that, for Publish
	Private       bool   // credentials were needed to have it
	Zig           release.Zig
	CreatedAt     time.Time // UTC
}

// Check returns a fault.ErrInvalid if what a stranger says of an archive cannot be one's row. It says nothing of the
// bytes.
func (a *Archive) Check() error {
	d, err := name.ParseDependency(a.URL)
	if err != nil || d.Git || d.URL != a.URL {
		return fault.Invalid("url", "%.200q is none of an archive, or is spelled otherwise", a.URL)
	}
	for _, text := range []string{a.ContentType, a.Disposition, a.FinalURL} {
		if len(text) > maxHeader || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
			return fault.Invalid("", "%.80q was never upstream's", text)
		}
	}
	// A browser would be shown a page of theirs, as one of ours.
	if u, err := url.Parse(a.URL); err != nil {
		return fault.Invalid("url", "%.200q is none of an archive", a.URL)
	} else if _, err := archive.FormatOf(a.ContentType, a.Disposition, u.Path); err != nil {
		return fault.Invalid("", "it was never stored: %v", err)
	}
	if a.CreatedAt.IsZero() || a.Digest == a.TarballDigest && a.Size != a.TarballSize {
		return fault.Invalid("", "the record contradicts itself")
	}
	return nil
}

// maxHeader is the most bytes that are kept of a header of upstream.
const maxHeader = 64 << 10

const archiveColumns = `
	id, url, zig_hash, zig_legacy_hash, digest, size, content_type, disposition, final_url, format,
	tarball_digest, tarball_size, record_digest, private, zig, created_at`

// Publish makes an archive visible. All its blobs must be durable. If the URL is known to answer these files, nothing
// changes and created is false. It returns fault.ErrGone if the URL or the files were removed. Other files than those that are frozen for the URL are noted as moved; they are stored
// only if they were asked for by their hash (pinned).
func (s *Store) Publish(ctx context.Context, a Archive, pinned bool) (created, moved bool, err error) {
	err = s.db.Tx(ctx, func(tx pgx.Tx) error {
		// One at a time for a URL: two first answers that differ must not both be the first.
		if err := s.refuseRemoved(ctx, tx, a.URL, []string{a.ZigLegacyHash}); err != nil {
			return err
		}
		if err := jobs.HoldLease(ctx, tx); err != nil {
			return err
		}
		moved, err = a.noteMove(ctx, tx)
		if err != nil || moved && !pinned {
			return err
		}
		if created, err = insertArchive(ctx, tx, a); err != nil || !created {
			return err
		}
		return scrub.CheckBytes(ctx, tx)
	})
	if err != nil {
		return false, false, fmt.Errorf("publish archive %s: %w", a.URL, pg.Translate(err))
	}
	return created, moved, nil
}

// NoteMove notes that the URL of an archive, which is not stored, answers it, if other files are frozen for that.
func (s *Store) NoteMove(ctx context.Context, a Archive) error {
	err := s.db.Tx(ctx, func(tx pgx.Tx) error {
		if _, err := a.noteMove(ctx, tx); err != nil {
			return err
		}
		return jobs.HoldLease(ctx, tx)
	})
	if err != nil {
		return fmt.Errorf("note move of archive %s: %w", a.URL, pg.Translate(err))
	}
	return nil
}

// noteMove reports whether other files are frozen for the URL, and notes that: pages and the log tell everybody of it, so
// what credentials were needed for is no news of a URL that is here for all.
func (a *Archive) noteMove(ctx context.Context, tx pgx.Tx) (moved bool, err error) {
	var first string
	var private bool
	err = tx.QueryRow(ctx, `SELECT zig_legacy_hash, private FROM archives WHERE url = $1 ORDER BY id LIMIT 1`, a.URL).Scan(&first, &private)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && first == a.ZigLegacyHash {
		return false, nil
	}
	if err != nil || a.Private && !private {
		return err == nil, err
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO moved_archives (url, old_legacy_hash, new_hash, new_legacy_hash) VALUES ($1, $2, $3, $4)
		ON CONFLICT (url, new_legacy_hash) DO NOTHING`, a.URL, first, a.ZigHash, a.ZigLegacyHash)
	return true, err
}

func insertArchive(ctx context.Context, tx pgx.Tx, a Archive) (created bool, err error) {
	for digest, size := range map[string]int64{a.Digest: a.Size, a.TarballDigest: a.TarballSize, a.RecordDigest: a.RecordSize} {
		if err := putBlob(ctx, tx, blob.Ref{Digest: digest, Size: size}); err != nil {
			return false, err
		}
	}
	tag, err := tx.Exec(ctx, `
		INSERT INTO archives (url, zig_hash, zig_legacy_hash, digest, size, content_type, disposition, final_url, format,
			tarball_digest, tarball_size, record_digest, private, zig, created_at)
		VALUES (@url, @hash, @legacy, @digest, @size, @type, @disposition, @final, @format,
			@tarball, @tarball_size, @record, @private, @zig, @created_at)
		ON CONFLICT (url, zig_legacy_hash) DO NOTHING`,
		pgx.NamedArgs{"url": a.URL, "hash": a.ZigHash, "legacy": a.ZigLegacyHash, "digest": a.Digest, "size": a.Size,
			"type": a.ContentType, "disposition": a.Disposition, "final": a.FinalURL, "format": a.Format,
			"tarball": a.TarballDigest, "tarball_size": a.TarballSize, "record": a.RecordDigest, "private": a.Private,
			"zig": a.Zig, "created_at": a.CreatedAt})
	if err != nil || tag.RowsAffected() == 0 {
		return false, err
	}
	return true, feed.AddNews(ctx, tx, feed.Body{Archive: a.announced()}, a.Private)
}

// announced is what edges are told of the archive.
func (a *Archive) announced() *feed.Archive {
	return &feed.Archive{URL: a.URL, Record: blob.Ref{Digest: a.RecordDigest, Size: a.RecordSize},
		Body: blob.Ref{Digest: a.Digest, Size: a.Size}, Tarball: blob.Ref{Digest: a.TarballDigest, Size: a.TarballSize}}
}

// ByURL returns what a URL answered first, or fault.ErrNotFound, or fault.ErrGone if that was removed.
func (s *Store) ByURL(ctx context.Context, url string) (Archive, error) {
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT `+archiveColumns+` FROM archives a
		WHERE url = $1 AND ($2 OR NOT private) AND NOT EXISTS (SELECT FROM archive_tombstones t WHERE t.url = a.url)
		ORDER BY id LIMIT 1`, url, access.SeesPrivate(ctx))
	a, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Archive])
	if err != nil {
		return Archive{}, fmt.Errorf("archive %s: %w", url, s.orGone(ctx, pg.Translate(err), url, ""))
	}
	return a, nil
}

// ByBlob returns the archives that name a blob, private ones, too.
func (s *Store) ByBlob(ctx context.Context, digest string) ([]Archive, error) {
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT `+archiveColumns+` FROM archives WHERE digest = $1 OR tarball_digest = $1 OR record_digest = $1 ORDER BY id LIMIT 100`, digest)
	return collectArchives(rows)
}

// After returns archives in the order in which they were stored, those after the one with the given id, private ones, too,
// without those that were removed.
func (s *Store) After(ctx context.Context, id int64, limit int) ([]Archive, error) {
	rows, _ := s.db.Pool.Query(ctx, `SELECT `+archiveColumns+` FROM archives a
		WHERE id > $1 AND NOT EXISTS (SELECT FROM archive_tombstones t WHERE t.url = a.url) ORDER BY id LIMIT $2`, id, limit)
	return collectArchives(rows)
}

func collectArchives(rows pgx.Rows) ([]Archive, error) {
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[Archive])
	if err != nil {
		return nil, fmt.Errorf("archives: %w", pg.Translate(err))
	}
	return all, nil
}

// A Move is a URL that answers other files than those that are frozen.
type Move struct {
	OldLegacyHash string
	NewHash       string
	NewLegacyHash string
	SeenAt        time.Time
}

// Moves returns what a URL answered later, the newest first: to strangers nothing, if something of it is private.
func (s *Store) Moves(ctx context.Context, url string) ([]Move, error) {
	rows, _ := s.db.Pool.Query(ctx, `
		SELECT old_legacy_hash, new_hash, new_legacy_hash, seen_at FROM moved_archives m
		WHERE url = $1 AND ($2 OR NOT EXISTS (SELECT FROM archives a WHERE a.url = m.url AND a.private)) ORDER BY id DESC LIMIT 100`, url, access.SeesPrivate(ctx))
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Move])
	if err != nil {
		return nil, fmt.Errorf("moves of %s: %w", url, pg.Translate(err))
	}
	return all, nil
}
