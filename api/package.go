package api

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/francescobianco/packbase/api/answer"
	"github.com/francescobianco/packbase/api/health"
	"github.com/francescobianco/packbase/api/route"
	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/ledger"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/zigpkg"
)

// getPackage serves GET /api/info/{package}.
func (s *Server) getPackage(w http.ResponseWriter, r *http.Request) error {
	return s.answerInfo(w, r, chi.URLParam(r, "package"))
}

func (s *Server) answerInfo(w http.ResponseWriter, r *http.Request, name string) error {
	return s.answerPackage(w, r, name, func(p *wire.Package) any { return p })
}

// answerPackage answers with what as makes of the description of a package.
func (s *Server) answerPackage(w http.ResponseWriter, r *http.Request, name string, as func(*wire.Package) any) error {
	of := s.basisOf(r, name)
	raw, err := s.answers.keep(r, &of, func() (any, error) {
		body, err := s.describe(r, name)
		if err != nil {
			return nil, err
		}
		if logged(body) {
			of.rows = of.rows.WithoutLog()
		}
		if body.Head != "" && body.Build == nil { // they may be read soon
			of.until = time.Now().Add(unreadFor)
		}
		return as(body), nil
	})
	if err != nil {
		return answer.OrNotFound(err, answer.NoPackage(name))
	}
	return s.answers.send(w, r, s.clientOf(r), raw)
}

// unreadFor is how long a description is kept without what the files of its package say.
const unreadFor = 10 * time.Second

// basisOf returns what the description of a package is made of now.
func (s *Server) basisOf(r *http.Request, name string) basis {
	ctx, cancel := context.WithTimeout(r.Context(), findTimeout)
	defer cancel()
	mark, _ := s.rows.Of(ctx, name) // zero if Postgres does not say
	return basis{rows: mark}
}

// logged reports whether nothing that a description says of the log can change, unless the package does.
func logged(p *wire.Package) bool {
	waits := func(t wire.Tarball) bool { return t.Proof == "" && t.Log != ledger.Private.String() }
	return !slices.ContainsFunc(p.Tarballs, waits) && !slices.ContainsFunc(p.Snapshots, waits)
}

func (s *Server) describe(r *http.Request, pkg string) (*wire.Package, error) {
	ctx := r.Context()
	if name.ValidPackage(pkg) != nil {
		return nil, fault.ErrNotFound
	}
	p, err := s.db.PackageByName(ctx, pkg)
	if err != nil {
		return nil, err
	}
	body := newPackageBody(p)
	d, err := s.db.Describe(ctx, p.Name)
	if err != nil {
		return nil, err
	}
	body.Names = d.Names
	if err := s.fillTarballs(r, body, p); err != nil {
		return nil, err
	}
	body.Branches = each(firstOf(d.Branches), func(b storage.Branch) wire.Branch {
		return wire.Branch{Name: b.Name, Commit: b.Commit, URL: route.BranchTarball(p.Called(), b.Name)}
	})
	body.Counts = wire.Counts{Snapshots: body.Counts.Snapshots, Rejected: len(d.Rejected), Moved: len(d.Moved), Removed: len(d.Tombstones)}
	body.RejectedTags, body.RemovedTags = each(firstOf(d.Rejected), newRejectedTag), each(firstOf(d.Tombstones), newRemovedTag)
	body.MovedTags = each(d.Moved[max(0, len(d.Moved)-infoRows):], newMovedTag) // the newest are told
	return body, nil
}

// Bounds of one answer. An ordinary package is answered whole.
const (
	infoRows  = 1000
	infoBytes = 4 << 20 // of the releases
)

func firstOf[T any](all []T) []T { return all[:min(len(all), infoRows)] }

// fillTarballs adds one page of the releases, the newest first, and the newest
// snapshots in order of publication. Only these are read whole.
func (s *Server) fillTarballs(r *http.Request, body *wire.Package, p storage.Package) error {
	limit, err := limitOf(r, infoRows, infoRows)
	if err != nil {
		return err
	}
	offset, err := offsetOf(r)
	if err != nil {
		return err
	}
	refs, err := s.db.TagRefs(r.Context(), p.Name)
	if err != nil {
		return err
	}
	var tags, snapshots []storage.TagRef
	published := make([]storage.Release, len(refs))
	for i, ref := range refs {
		published[i].Tag = ref.Tag
		if ref.Tag == "" {
			snapshots = append(snapshots, ref)
		} else {
			tags = append(tags, ref)
		}
	}
	slices.SortFunc(tags, func(x, y storage.TagRef) int { return name.CompareTags(y.Tag, y.CommitTime, x.Tag, x.CommitTime) })
	body.Counts.Snapshots = len(snapshots)
	snapshots = snapshots[max(0, len(snapshots)-infoRows):]
	hidden := storage.HiddenTags(published)
	var head storage.TagRef
	if i := p.Head(refs); i >= 0 {
		head = refs[i]
	}
	var headed *storage.Release // that HEAD names, if it is told of anyway
	more, err := s.addTarballs(r.Context(), page(tags, offset, limit), func(rel *storage.Release, t wire.Tarball) {
		if rel.ID == head.ID {
			headed = rel
		}
		t.GitHidden = hidden[t.Tag]
		body.Tarballs = append(body.Tarballs, t)
	})
	if err != nil {
		return err
	}
	if next := offset + len(body.Tarballs); more || next < len(tags) && len(body.Tarballs) > 0 {
		body.Next = fmt.Sprintf("%s?offset=%d&limit=%d", route.Path(route.Info, p.Called()), next, limit)
	}
	slices.Reverse(snapshots)
	_, err = s.addTarballs(r.Context(), snapshots, func(_ *storage.Release, t wire.Tarball) { body.Snapshots = append(body.Snapshots, t) })
	slices.Reverse(body.Snapshots)
	if body.Head = head.CommitOID; err != nil || head.ID == 0 {
		return err
	}
	if headed == nil {
		releases, err := s.db.ReleasesByID(r.Context(), []int64{head.ID})
		if err != nil || len(releases) == 0 {
			return err
		}
		headed = &releases[0]
	}
	body.Build = s.build(r.Context(), headed)
	return nil
}

// buildTime bounds how long the description of a package waits for what its
// files say: it is complete without. Tests wait longer, so that what they
// compare does not hang on how busy the machine is.
var buildTime = time.Second

// build tells what a release has for those who depend on it, nil if that cannot be read.
func (s *Server) build(ctx context.Context, rel *storage.Release) *wire.Build {
	ctx, cancel := context.WithTimeout(ctx, buildTime)
	defer cancel()
	facts, err := s.files.Facts(ctx, rel)
	if err != nil {
		return nil // what is damaged is told of by fsck
	}
	b := &wire.Build{Tag: rel.Tag, Commit: rel.CommitOID, Modules: []wire.Module{}, Options: []zigpkg.Option{}, Refused: map[string]string{}}
	for _, m := range facts.Build.Modules {
		b.Modules = append(b.Modules, wire.Module{Name: m, Import: facts.Build.Import(zigpkg.DependencyName(rel.Zig.Name, rel.Called()), m)})
	}
	b.Options = append(b.Options, facts.Build.Options...)
	maps.Copy(b.Refused, facts.Refused)
	return b
}

// addTarballs reads releases some at a time, until they are as large as one
// answer may be; more says that some are left.
func (s *Server) addTarballs(ctx context.Context, refs []storage.TagRef, add func(*storage.Release, wire.Tarball)) (more bool, err error) {
	size := 0
	for part := range slices.Chunk(refs, 100) {
		var ids []int64
		for _, ref := range part {
			ids = append(ids, ref.ID)
		}
		releases, err := s.db.ReleasesByID(ctx, ids)
		if err != nil {
			return false, err
		}
		places, err := s.ledger.Places(ctx, ids)
		if err != nil {
			return false, err
		}
		for i := range releases {
			raw, err := json.Marshal(releases[i].Zig)
			if err != nil {
				return false, err
			}
			if size += 800 + len(raw); size > infoBytes && i > 0 {
				return true, nil
			}
			body := newTarballBody(&releases[i])
			body.Logged = newLogged(places[releases[i].ID], route.Proof(releases[i].Called(), body.Tag, body.Commit))
			add(&releases[i], body)
		}
	}
	return false, nil
}

func newPackageBody(p storage.Package) *wire.Package {
	b := &wire.Package{
		Package: p.Called(), Local: p.Local(), Available: p.Local(), TarballDir: p.Local(),
		TarballCount: p.ReleaseCount, LatestSize: p.LatestSize, SizeBytes: p.SizeBytes,
		UpdatedAt: p.UpdatedAt, UpdatedUnix: p.UpdatedAt.Unix(), Language: p.Language, Description: p.Description,
		State: p.State, StateReason: p.StateReason, Upstream: p.Upstream, Registered: p.Registered, Private: p.Private,
		SmartHTTPReady: p.SmartHTTPReady, PseudoGit: p.PseudoGitFetchable, FetchProbeCommit: p.ProbeCommit,
		FetchProbeError: wire.Null(p.ProbeError), Healthy: p.Healthy,
		Tarballs: []wire.Tarball{}, Snapshots: []wire.Tarball{},
	}
	if p.LatestTag != nil {
		b.LatestTag = *p.LatestTag
	}
	if p.SyncAt != nil {
		b.LastSync = &wire.Sync{At: *p.SyncAt, OK: p.SyncOK != nil && *p.SyncOK, NextTryAt: health.NextTry(&p), LastOKAt: p.SyncedAt}
		if !b.LastSync.OK {
			b.LastSync.Error = wire.Failure{Code: p.SyncCode, Message: p.SyncMessage}
		}
	}
	return b
}

func newTarballBody(r *storage.Release) wire.Tarball {
	return wire.Tarball{
		Tag: r.Tag, URL: route.Tarball(r.Called(), r.Tag, r.CommitOID), Size: r.Size, ManifestPresent: true,
		Commit: r.CommitOID, Tree: r.TreeOID, TagObject: r.TagOID,
		SHA256: r.Digest, MD5: r.MD5, CRC32: r.CRC32, ContentDigest: r.ContentDigest,
		CommitTime: r.CommitTime, CreatedAt: r.CreatedAt, Zig: wire.Zig(r.Zig),
	}
}

func newLogged(p ledger.Place, proof string) wire.Logged {
	if !p.Proved() {
		proof = ""
	}
	return wire.Logged{Log: p.String(), Proof: proof}
}

func newRejectedTag(t storage.RejectedTag) wire.RejectedTag {
	return wire.RejectedTag{Tag: t.Tag, OID: t.OID, Code: t.Code, Reason: t.Reason, SeenAt: t.SeenAt, RetryAt: t.RetryAt}
}

func newMovedTag(t storage.MovedTag) wire.MovedTag { return wire.MovedTag(t) }

// newRemovedTag leaves out digests: they are of use to nobody.
func newRemovedTag(t storage.Tombstone) wire.RemovedTag {
	return wire.RemovedTag{Tag: t.Tag, TagOID: t.TagOID, CommitOID: t.CommitOID, Reason: t.Reason, RemovedAt: t.RemovedAt}
}

// listPackages serves GET /api/list.
func (s *Server) listPackages(w http.ResponseWriter, r *http.Request) error {
	v, err := s.directory.Last(r.Context())
	if err != nil {
		return err
	}
	return s.sendKept(w, r, basis{view: v.Number}, func() (any, error) {
		out := wire.List{Local: []string{}, Packages: []string{}, Registered: []string{}}
		for _, p := range v.Packages {
			out.Packages = append(out.Packages, p.Called())
			if p.Local() {
				out.Local = append(out.Local, p.Called())
			}
			if p.Registered {
				out.Registered = append(out.Registered, p.Called())
			}
		}
		return out, nil
	})
}

// each returns what becomes of each of all: an empty list, not null, of none.
func each[T, U any](all []T, become func(T) U) []U {
	list := make([]U, len(all))
	for i := range all {
		list[i] = become(all[i])
	}
	return list
}
