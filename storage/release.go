package storage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/feed"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/jobs"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/pg"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/scrub"
)

const releaseColumns = `
	id, package, COALESCE(tag, '') AS tag, COALESCE(tag_oid, '') AS tag_oid, commit_oid, tree_oid, commit_time,
	digest, size, content_digest, md5, crc32, manifest_digest, zig_hash, zig_legacy_hash, zig, created_at, private, shown`

// seenName is the name under which the rows of the package $1 are, and one that no package has if the reader may not know of it ($3 says
// whether he sees private packages): then nothing is looked up that would take time.
const seenName = `(SELECT CASE WHEN seen(name, $3) THEN name ELSE '/' END FROM first_name($1) AS name)`

// ReleaseByTag returns the release of pkg published under tag.
// It returns ErrNotFound if there is none, a *GoneError if it was removed.
func (db *DB) ReleaseByTag(ctx context.Context, pkg, tag string) (Release, error) {
	rows, _ := db.Pool.Query(ctx, `
		SELECT `+releaseColumns+` FROM served_releases
		WHERE package = `+seenName+` AND tag = $2 AND ($3 OR NOT private)`, pkg, tag, access.SeesPrivate(ctx))
	r, err := oneRelease(rows, pkg+"@"+tag)
	return r, db.orGone(ctx, err, `package = `+seenName+` AND tag = $2`, pkg, tag)
}

// ReleaseByCommit returns the release or snapshot of a commit that was
// published first: what a commit's path names must never change.
// It returns ErrNotFound if there is none, a *GoneError if it was removed.
func (db *DB) ReleaseByCommit(ctx context.Context, pkg, oid string) (Release, error) {
	rows, _ := db.Pool.Query(ctx, `
		SELECT `+releaseColumns+` FROM served_releases
		WHERE id = (SELECT min(id) FROM releases WHERE package = `+seenName+` AND commit_oid = $2) AND ($3 OR NOT private)`, pkg, oid, access.SeesPrivate(ctx))
	r, err := oneRelease(rows, pkg+"#"+oid)
	return r, db.orGone(ctx, err, `package = `+seenName+` AND commit_oid = $2`, pkg, oid)
}

// ReleaseByZigHash returns a release with the given Zig hash, in either form,
// a public one if there is one. It must not be one whose hash was refuted.
// It returns ErrNotFound if there is none, a *GoneError if it was removed.
func (db *DB) ReleaseByZigHash(ctx context.Context, hash string) (Release, error) {
	rows, _ := db.Pool.Query(ctx, `
		SELECT `+releaseColumns+` FROM served_releases
		WHERE (zig_hash = $1 AND zig_hash <> '' OR zig_legacy_hash = $1 AND zig_legacy_hash <> '') AND ($2 OR NOT private)
			AND NOT EXISTS (SELECT FROM refuted_zig_hashes WHERE release_id = id)
		ORDER BY private, id LIMIT 1`, hash, access.SeesPrivate(ctx))
	r, err := oneRelease(rows, hash)
	return r, db.orGone(ctx, err, `zig_hash = $1 OR zig_legacy_hash = $2`, hash, hash)
}

// RefuteZigHash keeps a release from being found by the Zig hashes of its row,
// which its files do not have.
func (db *DB) RefuteZigHash(ctx context.Context, release int64) error {
	if err := db.Tx(ctx, func(tx pgx.Tx) error { return refuteZigHash(ctx, tx, release) }); err != nil {
		return fmt.Errorf("refute Zig hash: %w", pg.Translate(err))
	}
	return nil
}

func refuteZigHash(ctx context.Context, tx pgx.Tx, release int64) error {
	_, err := tx.Exec(ctx, `INSERT INTO refuted_zig_hashes (release_id) VALUES ($1) ON CONFLICT DO NOTHING`, release)
	return err
}

func oneRelease(rows pgx.Rows, what string) (Release, error) {
	// A query error comes back from Collect, too.
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Release])
	if err != nil {
		return Release{}, fmt.Errorf("release %s: %w", what, pg.Translate(err))
	}
	return r, nil
}

// Releases returns the releases and snapshots of pkg, in order of publication.
func (db *DB) Releases(ctx context.Context, pkg string) ([]Release, error) {
	return releasesOf(ctx, db.Pool, pkg)
}

func releasesOf(ctx context.Context, q pg.Querier, pkg string) ([]Release, error) {
	rows, _ := q.Query(ctx, `
		SELECT `+releaseColumns+` FROM served_releases WHERE package = first_name($1) AND ($2 OR NOT private) ORDER BY id`, pkg, access.SeesPrivate(ctx))
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[Release])
	if err != nil {
		return nil, fmt.Errorf("releases of %s: %w", pkg, pg.Translate(err))
	}
	return all, nil
}

// A Moment is a package as it was at one moment, whatever is being published
// meanwhile.
type Moment struct {
	Package  Package
	Releases []Release // in order of publication
	Segments []release.Segment
	Branches []Branch // the one last asked for first
}

// Moment returns what the package called name is at this moment.
func (db *DB) Moment(ctx context.Context, name string) (m Moment, err error) {
	one := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err = pgx.BeginTxFunc(ctx, db.Pool, one, func(tx pgx.Tx) error {
		if m.Package, err = packageByName(ctx, tx, name); err != nil {
			return err
		}
		if m.Releases, err = releasesOf(ctx, tx, m.Package.Name); err != nil {
			return err
		}
		if m.Segments, err = segmentsOf(ctx, tx, m.Package.Name); err != nil {
			return err
		}
		m.Branches, err = branchesOf(ctx, tx, m.Package.Name)
		return err
	})
	if err != nil {
		return Moment{}, pg.Translate(err)
	}
	return m, nil
}

// A Publication is a release and everything that becomes visible with it.
type Publication struct {
	Release     Release
	Pack        Pack
	Manifest    blob.Ref
	Description string // of the package, from the README
	Upstream    string // for Restore, which may have nothing else to tell it
	CloneURL    string
	UntrueZig   bool // the files do not have the Zig hashes that the release says
}

// PublicationOf returns what a manifest publishes, with the pack of its release.
// in is the manifest's blob.
func PublicationOf(m *release.Manifest, in blob.Ref, pack gitpack.Stored) Publication {
	return Publication{
		Release: Release{
			Package:        m.Package,
			Tag:            m.Tag,
			TagOID:         m.TagObject,
			CommitOID:      m.Commit,
			TreeOID:        m.Tree,
			CommitTime:     m.CommitTime,
			Digest:         m.Tarball.Digest,
			Size:           m.Tarball.Size,
			ContentDigest:  m.Tarball.ContentDigest,
			MD5:            m.Tarball.MD5,
			CRC32:          m.Tarball.CRC32,
			ManifestDigest: in.Digest,
			ZigHash:        m.Zig.Hash,
			ZigLegacyHash:  m.Zig.LegacyHash,
			Zig:            m.Zig,
			CreatedAt:      m.CreatedAt,
		},
		Pack:        Pack{Bitmap: pack.Bitmap, Objects: pack.Objects, Size: pack.Size, Trailer: pack.Trailer[:]},
		Manifest:    in,
		Description: m.Description,
		Upstream:    m.Upstream,
		CloneURL:    m.CloneURL,
	}
}

// Publish makes releases and snapshots of one package visible, all or none. All
// blobs must be durable. It returns ErrLost if the claim was taken over, and
// ErrConflict if a tag or commit is already published with other bytes; what is
// published already is left out of created.
func (db *DB) Publish(ctx context.Context, c jobs.Claim, all ...Publication) (created []Publication, err error) {
	var at *Release
	err = db.Tx(ctx, func(tx pgx.Tx) error {
		created = nil
		if err := jobs.HoldFence(ctx, tx, c); err != nil {
			return err
		}
		for i := range all {
			at = &all[i].Release
			isNew, err := publish(ctx, tx, all[i], false)
			if err != nil {
				return err
			}
			if isNew {
				created = append(created, all[i])
			}
		}
		if len(created) == 0 {
			return nil
		}
		return scrub.CheckBytes(ctx, tx)
	})
	if err != nil && at != nil {
		err = fmt.Errorf("%s@%s: %w", at.Package, at.Tag, err)
	}
	if err != nil {
		return nil, fmt.Errorf("publish: %w", pg.Translate(err))
	}
	return created, nil
}

func publish(ctx context.Context, tx pgx.Tx, p Publication, adopted bool) (created bool, err error) {
	r := p.Release
	if err := checkRemoved(ctx, tx, r, adopted); err != nil {
		return false, err
	}
	held, err := heldRelease(ctx, tx, r)
	switch {
	case err == nil && held.CommitOID == r.CommitOID && held.TagOID == r.TagOID:
		return false, nil
	case err == nil:
		return false, fmt.Errorf("%w: the tag is published with commit %s", fault.ErrConflict, held.CommitOID)
	case !errors.Is(err, fault.ErrNotFound):
		return false, err
	}
	for _, b := range []blob.Ref{{Digest: r.Digest, Size: r.Size}, p.Manifest} {
		if err := putBlobRow(ctx, tx, b); err != nil {
			return false, err
		}
	}
	var id int64
	err = tx.QueryRow(ctx, `
		INSERT INTO releases (package, tag, tag_oid, commit_oid, tree_oid, commit_time, digest, size,
			content_digest, md5, crc32, manifest_digest, zig_hash, zig_legacy_hash, zig, created_at)
		VALUES (@package, NULLIF(@tag, ''), NULLIF(@tag_oid, ''), @commit_oid, @tree_oid, @commit_time, @digest, @size,
			@content_digest, @md5, @crc32, @manifest_digest, @zig_hash, @zig_legacy_hash, @zig, @created_at)
		RETURNING id`,
		pgx.NamedArgs{
			"package": r.Package, "tag": r.Tag, "tag_oid": r.TagOID, "commit_oid": r.CommitOID, "tree_oid": r.TreeOID,
			"commit_time": r.CommitTime, "digest": r.Digest, "size": r.Size, "content_digest": r.ContentDigest,
			"md5": r.MD5, "crc32": r.CRC32, "manifest_digest": r.ManifestDigest, "zig_hash": r.ZigHash,
			"zig_legacy_hash": r.ZigLegacyHash, "zig": r.Zig, "created_at": r.CreatedAt,
		}).Scan(&id)
	if err != nil {
		return false, err
	}
	if err := putPack(ctx, tx, id, p.Pack); err != nil {
		return false, err
	}
	if p.UntrueZig {
		if err := refuteZigHash(ctx, tx, id); err != nil {
			return false, err
		}
	}
	err = feed.Add(ctx, tx, feed.Body{
		Package: r.Package, Tag: r.Tag, Commit: r.CommitOID, Manifest: p.Manifest, Tarball: blob.Ref{Digest: r.Digest, Size: r.Size},
	})
	if err != nil {
		return false, err
	}
	return true, countRelease(ctx, tx, r, p.Description)
}

func heldRelease(ctx context.Context, tx pgx.Tx, r Release) (Release, error) {
	rows, _ := tx.Query(ctx, `
		SELECT `+releaseColumns+` FROM served_releases
		WHERE package = @package AND CASE WHEN @tag = '' THEN tag IS NULL AND commit_oid = @commit ELSE tag = @tag END`,
		pgx.NamedArgs{"package": r.Package, "tag": r.Tag, "commit": r.CommitOID})
	return oneRelease(rows, r.Package+"@"+r.Tag)
}

func putPack(ctx context.Context, tx pgx.Tx, release int64, p Pack) error {
	_, err := tx.Exec(ctx, `
		INSERT INTO packs (release_id, bitmap, objects, size, trailer) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (release_id) DO UPDATE
		SET bitmap = EXCLUDED.bitmap, objects = EXCLUDED.objects, size = EXCLUDED.size, trailer = EXCLUDED.trailer`,
		release, p.Bitmap, p.Objects, p.Size, p.Trailer)
	return err
}

// countRelease brings the package's summary up to date with a new release. The
// schema itself counts snapshots.
func countRelease(ctx context.Context, tx pgx.Tx, r Release, description string) error {
	var latest *string
	var latestTime *time.Time
	err := tx.QueryRow(ctx, `
		SELECT p.latest_tag, r.commit_time
		FROM packages p LEFT JOIN releases r ON r.package = p.name AND r.tag = p.latest_tag
		WHERE p.name = $1`, r.Package).Scan(&latest, &latestTime)
	if err != nil {
		return err
	}
	isLatest := r.Tag != "" && (latest == nil || name.CompareTags(r.Tag, r.CommitTime, *latest, *latestTime) > 0)
	_, err = tx.Exec(ctx, `
		UPDATE packages
		SET latest_tag = CASE WHEN @latest THEN @tag ELSE latest_tag END,
			latest_size = CASE WHEN @latest THEN @size ELSE latest_size END,
			description = CASE WHEN @latest AND @description <> '' THEN @description ELSE description END,
			release_count = release_count + CASE WHEN @tag = '' THEN 0 ELSE 1 END,
			size_bytes = size_bytes + @size,
			revision = revision + 1,
			updated_at = GREATEST(updated_at, @created_at)
		WHERE name = @package`,
		pgx.NamedArgs{"package": r.Package, "latest": isLatest, "tag": r.Tag, "size": r.Size,
			"created_at": r.CreatedAt, "description": description})
	return err
}

// RejectTag records that a tag was not published, and is to be tried again
// after wait, which doubles up to longest as long as the reason is the same.
func (db *DB) RejectTag(ctx context.Context, c jobs.Claim, t RejectedTag, wait, longest time.Duration) error {
	err := db.Tx(ctx, func(tx pgx.Tx) error {
		if err := jobs.HoldFence(ctx, tx, c); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `
			INSERT INTO rejected_tags AS r (package, tag, oid, code, reason, rules, retry_at)
			VALUES (@package, @tag, @oid, @code, @reason, @rules, now() + @wait::interval)
			ON CONFLICT (package, tag) DO UPDATE
			SET oid = EXCLUDED.oid, code = EXCLUDED.code, reason = EXCLUDED.reason, rules = EXCLUDED.rules, seen_at = now(),
				tries = CASE WHEN (r.oid, r.code) = (EXCLUDED.oid, EXCLUDED.code) THEN r.tries + 1 ELSE 1 END,
				retry_at = now() + CASE WHEN (r.oid, r.code) = (EXCLUDED.oid, EXCLUDED.code)
					THEN LEAST(@wait::interval * power(2, LEAST(r.tries, 30)), @longest::interval) ELSE @wait::interval END`,
			pgx.NamedArgs{"package": c.Job.Package, "tag": t.Tag, "oid": t.OID, "code": t.Code, "reason": t.Reason,
				"rules": t.Rules, "wait": wait, "longest": longest})
		return err
	})
	if err != nil {
		return fmt.Errorf("reject %s@%s: %w", c.Job.Package, t.Tag, pg.Translate(err))
	}
	return nil
}

// ForgetRejections drops what is recorded of tags other than those that
// upstream lists.
func (db *DB) ForgetRejections(ctx context.Context, c jobs.Claim, listed []string) error {
	err := db.Tx(ctx, func(tx pgx.Tx) error {
		if err := jobs.HoldFence(ctx, tx, c); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `DELETE FROM rejected_tags WHERE package = $1 AND tag <> ALL ($2)`, c.Job.Package, listed)
		return err
	})
	if err != nil {
		return fmt.Errorf("forget rejected tags of %s: %w", c.Job.Package, pg.Translate(err))
	}
	return nil
}

const selectRejectedTags = `
	SELECT tag, oid, code, reason, seen_at, retry_at, rules FROM rejected_tags r
	WHERE package = $1 AND seen(package, $2) AND NOT EXISTS (SELECT FROM served_releases WHERE package = $1 AND tag = r.tag)
	ORDER BY tag`

// RejectedTags returns the tags of pkg that were not published, by name.
func (db *DB) RejectedTags(ctx context.Context, pkg string) ([]RejectedTag, error) {
	rows, _ := db.Pool.Query(ctx, selectRejectedTags, pkg, access.SeesPrivate(ctx))
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[RejectedTag])
	if err != nil {
		return nil, fmt.Errorf("rejected tags of %s: %w", pkg, pg.Translate(err))
	}
	return all, nil
}

// RecordMoves records tags that no longer name what was released.
// What is recorded already stays as it is.
func (db *DB) RecordMoves(ctx context.Context, c jobs.Claim, moves []MovedTag) error {
	err := db.Tx(ctx, func(tx pgx.Tx) error {
		if err := jobs.HoldFence(ctx, tx, c); err != nil {
			return err
		}
		for _, m := range moves {
			_, err := tx.Exec(ctx, `
				INSERT INTO moved_tags (package, tag, old_oid, new_oid) VALUES ($1, $2, $3, $4)
				ON CONFLICT (package, tag, new_oid) DO NOTHING`, c.Job.Package, m.Tag, m.Old, m.New)
			if err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, `
			UPDATE packages SET moved_count = (SELECT count(DISTINCT tag) FROM moved_tags WHERE package = $1)
			WHERE name = $1`, c.Job.Package)
		return err
	})
	if err != nil {
		return fmt.Errorf("record moved tags of %s: %w", c.Job.Package, pg.Translate(err))
	}
	return nil
}

const selectMovedTags = `
	SELECT tag, old_oid AS old, new_oid AS new, accepted, seen_at FROM moved_tags
	WHERE package = $1 AND seen(package, $2) ORDER BY id`

// MovedTags returns what upstream did to the released tags of pkg, oldest first.
func (db *DB) MovedTags(ctx context.Context, pkg string) ([]MovedTag, error) {
	rows, _ := db.Pool.Query(ctx, selectMovedTags, pkg, access.SeesPrivate(ctx))
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[MovedTag])
	if err != nil {
		return nil, fmt.Errorf("moved tags of %s: %w", pkg, pg.Translate(err))
	}
	return all, nil
}

// AppendSegment adds a segment to the claimed package. Its blobs must be
// durable. It returns ErrLost if the claim was taken over.
func (db *DB) AppendSegment(ctx context.Context, c jobs.Claim, s release.Segment, index blob.Ref) error {
	err := db.Tx(ctx, func(tx pgx.Tx) error {
		if err := jobs.HoldFence(ctx, tx, c); err != nil {
			return err
		}
		if err := appendSegment(ctx, tx, s, index); err != nil {
			return err
		}
		return scrub.CheckBytes(ctx, tx)
	})
	if err != nil {
		return fmt.Errorf("append segment %d of %s: %w", s.Seq, s.Package, pg.Translate(err))
	}
	return nil
}

func appendSegment(ctx context.Context, tx pgx.Tx, s release.Segment, index blob.Ref) error {
	for _, b := range []blob.Ref{{Digest: s.Digest, Size: s.Size}, index} {
		if err := putBlobRow(ctx, tx, b); err != nil {
			return err
		}
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO segments (package, seq, first_ordinal, objects, digest, index_digest, size)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		s.Package, s.Seq, s.FirstOrdinal, s.Objects, s.Digest, index.Digest, s.Size)
	return err
}

// Segments returns the segments of pkg in order.
func (db *DB) Segments(ctx context.Context, pkg string) ([]release.Segment, error) {
	return segmentsOf(ctx, db.Pool, pkg)
}

func segmentsOf(ctx context.Context, q pg.Querier, pkg string) ([]release.Segment, error) {
	rows, _ := q.Query(ctx, `
		SELECT package, seq, first_ordinal, objects, digest, index_digest, size
		FROM segments WHERE package = $1 AND seen(package, $2) ORDER BY seq`, pkg, access.SeesPrivate(ctx))
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[release.Segment])
	if err != nil {
		return nil, fmt.Errorf("segments of %s: %w", pkg, pg.Translate(err))
	}
	return all, nil
}

// A StoredPack is a release's pack with the ids that ask for it.
type StoredPack struct {
	CommitOID string
	TagOID    string
	Pack
}

// Packs returns the packs of the releases and snapshots of pkg whose commit
// or tag object is one of oids.
func (db *DB) Packs(ctx context.Context, pkg string, oids []string) ([]StoredPack, error) {
	rows, _ := db.Pool.Query(ctx, `
		SELECT r.commit_oid, COALESCE(r.tag_oid, '') AS tag_oid, p.bitmap, p.objects, p.size, p.trailer
		FROM served_releases r JOIN packs p ON p.release_id = r.id
		WHERE r.package = $1 AND (r.commit_oid = ANY($2) OR r.tag_oid = ANY($2)) AND ($3 OR NOT r.private)
		ORDER BY r.id`, pkg, oids, access.SeesPrivate(ctx))
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[StoredPack])
	if err != nil {
		return nil, fmt.Errorf("packs of %s: %w", pkg, pg.Translate(err))
	}
	return all, nil
}
