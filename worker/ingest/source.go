package ingest

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"packbase/storage"
	"packbase/storage/gitpack"
	"packbase/worker/upstream"
)

// A source is where objects come from: upstream or a fixture folder.
type source interface {
	refs() sourceRefs
	// objects stores all that oids lead to in spool, a new file.
	objects(ctx context.Context, oids []gitpack.OID, spool *os.File) (*gitpack.Objects, error)
	close()
}

type sourceRefs struct {
	tags, branches map[string]gitpack.OID
	rejected       []storage.RejectedTag // tags whose names cannot be published
}

func openSource(ctx context.Context, req Request, events *eventWriter) (source, error) {
	if folder, ok := strings.CutPrefix(req.CloneURL, FixtureScheme); ok {
		if strings.HasSuffix(folder, ".git") {
			return openBareFixture(ctx, req, folder)
		}
		return openFixture(req, folder)
	}
	_ = events.send(Event{Progress: &storage.Progress{Step: "list refs"}})
	egress := req.Egress
	egress.Limits.PackBytes = req.Limits.Git.PackBytes
	session, err := upstream.New(egress).Connect(ctx, req.CloneURL)
	if err != nil {
		return nil, err
	}
	return &remote{session: session, req: req, events: events}, nil
}

// A remote is upstream's repository.
type remote struct {
	session *upstream.Session
	req     Request
	events  *eventWriter
}

func (r *remote) close() { r.session.Close() }

func (r *remote) refs() sourceRefs {
	listed := r.session.Refs()
	has := sourceRefs{tags: map[string]gitpack.OID{}, branches: map[string]gitpack.OID{}}
	for _, tag := range listed.Tags {
		if err := storage.ValidTag(tag.Name); err != nil {
			has.rejected = append(has.rejected, storage.RejectedTag{Tag: tag.Name, OID: tag.OID.String(), Code: "tag_name", Reason: err.Error()})
			continue
		}
		has.tags[tag.Name] = tag.OID
	}
	for _, branch := range listed.Branches {
		has.branches[branch.Name] = branch.OID
	}
	for _, ref := range listed.Skipped {
		if name, ok := strings.CutPrefix(ref.Name, "refs/tags/"); ok {
			has.rejected = append(has.rejected, storage.RejectedTag{Tag: name, Code: "tag_name", Reason: ref.Reason})
		}
	}
	return has
}

// objects fetches one pack without history and unpacks it.
func (r *remote) objects(ctx context.Context, oids []gitpack.OID, spool *os.File) (*gitpack.Objects, error) {
	pack, err := os.Create(filepath.Join(r.req.Dir, "fetched.pack"))
	if err != nil {
		return nil, fmt.Errorf("make pack file: %w", err)
	}
	defer os.Remove(pack.Name())
	defer pack.Close()
	err = r.session.FetchPack(ctx, oids, pack, func(bytes int64) {
		r.events.progress(storage.Progress{Step: "download", Done: bytes, Unit: "bytes"})
	})
	if err != nil {
		return nil, err
	}
	if _, err := pack.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("rewind pack: %w", err)
	}
	return gitpack.Unpack(ctx, pack, spool, r.req.Limits.Git, func(done, total int) {
		r.events.progress(storage.Progress{Step: "unpack", Done: int64(done), Total: int64(total), Unit: "objects"})
	})
}
