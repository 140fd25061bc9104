package ingest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/name"
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
	digest         string                // of the list; "" if there is none
}

func newSourceRefs() sourceRefs {
	return sourceRefs{tags: map[string]gitpack.OID{}, branches: map[string]gitpack.OID{}}
}

func (s *sourceRefs) empty() bool { return len(s.tags)+len(s.branches)+len(s.rejected) == 0 }

// addTag adds a tag, or says why it cannot keep its name here.
func (s *sourceRefs) addTag(tag string, id gitpack.OID) {
	if err := name.ValidRef(tag); err != nil {
		s.rejected = append(s.rejected, storage.RejectedTag{Tag: tag, OID: id.String(), Code: "tag_name", Reason: err.Error()})
		return
	}
	s.tags[tag] = id
}

// addBranch adds a branch that can be asked for.
func (s *sourceRefs) addBranch(branch string, id gitpack.OID) {
	if name.ValidRef(branch) == nil {
		s.branches[branch] = id
	}
}

func openSource(ctx context.Context, req Request, events *eventWriter) (source, error) {
	if fixture, ok := strings.CutPrefix(req.CloneURL, name.FixtureScheme); ok {
		folder, err := os.OpenRoot(filepath.Join(req.Dir, fixtureCopy))
		if err != nil {
			return nil, fmt.Errorf("open fixture: %w", err)
		}
		if strings.HasSuffix(fixture, ".git") {
			return openBareFixture(ctx, req, folder)
		}
		return openFixture(req, folder)
	}
	return openRemote(req, events)
}

func (r *remote) refs() sourceRefs {
	listed := r.listed.Refs
	has := newSourceRefs()
	has.digest = r.listed.Digest
	for _, tag := range listed.Tags {
		has.addTag(tag.Name, tag.OID)
	}
	for _, branch := range listed.Branches {
		has.addBranch(branch.Name, branch.OID)
	}
	for _, ref := range listed.Skipped {
		if name, ok := strings.CutPrefix(ref.Name, tagPrefix); ok {
			has.rejected = append(has.rejected, storage.RejectedTag{Tag: name, Code: "tag_name", Reason: ref.Reason})
		}
	}
	return has
}
