package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/francescobianco/packbase/storage"
)

// packageBody is what GET /api/info/{package} answers.
type packageBody struct {
	Package          string                `json:"package"`
	Available        bool                  `json:"available"`
	Registered       bool                  `json:"registered"`
	Private          bool                  `json:"private"`
	Local            bool                  `json:"local"`
	TarballDir       bool                  `json:"tarball_dir_present"`
	TarballCount     int                   `json:"tarball_count"`
	LatestTag        string                `json:"latest_tag"`
	LatestSize       int64                 `json:"latest_size_bytes"`
	SizeBytes        int64                 `json:"size_bytes"`
	Tarballs         []tarballBody         `json:"tarballs"`
	Snapshots        []tarballBody         `json:"snapshots"`
	SmartHTTPReady   bool                  `json:"smart_http_ready"`
	PseudoGit        bool                  `json:"pseudo_git_fetchable"`
	FetchProbeCommit string                `json:"fetch_probe_commit"`
	FetchProbeError  string                `json:"fetch_probe_error"`
	Healthy          bool                  `json:"healthy"`
	UpdatedAt        time.Time             `json:"updated_at"`
	Language         string                `json:"language"`
	Description      string                `json:"description"`
	State            string                `json:"state"`
	StateReason      string                `json:"state_reason,omitempty"`
	Upstream         string                `json:"upstream"`
	RejectedTags     []storage.RejectedTag `json:"rejected_tags"`
	MovedTags        []storage.MovedTag    `json:"moved_tags"`
	RemovedTags      []storage.Tombstone   `json:"removed_tags"`
	LastSync         *syncBody             `json:"last_sync"`
	Counts           countsBody            `json:"counts"`
	Next             string                `json:"next,omitempty"` // the path of the next page of tarballs
}

// countsBody says how many there are, where not all are told.
type countsBody struct {
	Snapshots int `json:"snapshots"`
	Rejected  int `json:"rejected_tags"`
	Moved     int `json:"moved_tags"`
	Removed   int `json:"removed_tags"`
}

type tarballBody struct {
	Tag             string      `json:"tag,omitempty"`
	URL             string      `json:"url"`
	Size            int64       `json:"size_bytes"`
	ManifestPresent bool        `json:"manifest_present"`
	Commit          string      `json:"git_commit_oid"`
	Tree            string      `json:"git_tree_oid"`
	TagObject       string      `json:"git_tag_oid,omitempty"`
	SHA256          string      `json:"tarball_sha256"`
	MD5             string      `json:"tarball_md5"`
	CRC32           string      `json:"tarball_crc32"`
	ContentDigest   string      `json:"content_digest"`
	CommitTime      time.Time   `json:"commit_time"`
	CreatedAt       time.Time   `json:"created_at"`
	Zig             storage.Zig `json:"zig"`
	GitHidden       string      `json:"git_hidden,omitempty"` // why Git clients do not see the tag
}

type syncBody struct {
	At        time.Time     `json:"at"`
	OK        bool          `json:"ok"`
	Error     *jobErrorBody `json:"error,omitempty"`
	NextTryAt *time.Time    `json:"next_try_at,omitempty"`
	LastOKAt  *time.Time    `json:"last_ok_at,omitempty"`
}

// getPackage serves GET /api/info/{package}.
func (s *Server) getPackage(w http.ResponseWriter, r *http.Request) error {
	name := chi.URLParam(r, "package")
	body, err := s.describe(r, name)
	if err != nil {
		return s.noPackage(w, name, err)
	}
	writeJSON(w, http.StatusOK, body)
	return nil
}

// noPackage answers for a package that is not there, as the API promises.
func (s *Server) noPackage(w http.ResponseWriter, name string, err error) error {
	if toError(err).Status != http.StatusNotFound {
		return err
	}
	w.Header().Set("X-Packbase-Error", "not_found")
	writeJSON(w, http.StatusNotFound, map[string]string{"status": "not_found", "package": name})
	return nil
}

func (s *Server) describe(r *http.Request, name string) (*packageBody, error) {
	ctx := r.Context()
	if storage.ValidPackage(name) != nil {
		return nil, storage.ErrNotFound
	}
	p, err := s.db.PackageByName(ctx, name)
	if err != nil {
		return nil, err
	}
	body := newPackageBody(p)
	if err := s.fillTarballs(r, body, p); err != nil {
		return nil, err
	}
	rejected, err := s.db.RejectedTags(ctx, p.Name)
	if err != nil {
		return nil, err
	}
	moved, err := s.db.MovedTags(ctx, p.Name)
	if err != nil {
		return nil, err
	}
	removed, err := s.db.Tombstones(ctx, p.Name)
	if err != nil {
		return nil, err
	}
	for i := range removed { // its digests are of use to nobody
		removed[i] = storage.Tombstone{Tag: removed[i].Tag, TagOID: removed[i].TagOID, CommitOID: removed[i].CommitOID, Reason: removed[i].Reason, RemovedAt: removed[i].RemovedAt}
	}
	body.Counts = countsBody{Snapshots: body.Counts.Snapshots, Rejected: len(rejected), Moved: len(moved), Removed: len(removed)}
	slices.Reverse(moved) // the newest are told
	moved = moved[:min(len(moved), infoRows)]
	slices.Reverse(moved)
	body.RejectedTags, body.MovedTags, body.RemovedTags = orEmpty(firstOf(rejected)), orEmpty(moved), orEmpty(firstOf(removed))
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
func (s *Server) fillTarballs(r *http.Request, body *packageBody, p storage.Package) error {
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
	slices.SortFunc(tags, func(x, y storage.TagRef) int { return storage.CompareTags(y.Tag, y.CommitTime, x.Tag, x.CommitTime) })
	body.Counts.Snapshots = len(snapshots)
	snapshots = snapshots[max(0, len(snapshots)-infoRows):]
	hidden := storage.HiddenTags(published)
	more, err := s.addTarballs(r.Context(), page(tags, offset, limit), func(t tarballBody) {
		t.GitHidden = hidden[t.Tag]
		body.Tarballs = append(body.Tarballs, t)
	})
	if err != nil {
		return err
	}
	if next := offset + len(body.Tarballs); more || next < len(tags) && len(body.Tarballs) > 0 {
		body.Next = fmt.Sprintf("/api/info/%s?offset=%d&limit=%d", p.Name, next, limit)
	}
	slices.Reverse(snapshots)
	_, err = s.addTarballs(r.Context(), snapshots, func(t tarballBody) { body.Snapshots = append(body.Snapshots, t) })
	slices.Reverse(body.Snapshots)
	return err
}

// addTarballs reads releases some at a time, until they are as large as one
// answer may be; more says that some are left.
func (s *Server) addTarballs(ctx context.Context, refs []storage.TagRef, add func(tarballBody)) (more bool, err error) {
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
		for i := range releases {
			raw, err := json.Marshal(releases[i].Zig)
			if err != nil {
				return false, err
			}
			if size += 800 + len(raw); size > infoBytes && i > 0 {
				return true, nil
			}
			add(newTarballBody(&releases[i]))
		}
	}
	return false, nil
}

func newPackageBody(p storage.Package) *packageBody {
	b := &packageBody{
		Package: p.Name, Local: p.ReleaseCount > 0, Available: p.ReleaseCount > 0, TarballDir: p.ReleaseCount > 0,
		TarballCount: p.ReleaseCount, LatestSize: p.LatestSize, SizeBytes: p.SizeBytes,
		UpdatedAt: p.UpdatedAt, Language: p.Language, Description: p.Description,
		State: p.State, StateReason: p.StateReason, Upstream: p.Upstream, Registered: p.Registered, Private: p.Private,
		SmartHTTPReady: p.SmartHTTPReady, PseudoGit: p.PseudoGitFetchable, FetchProbeCommit: p.ProbeCommit,
		FetchProbeError: p.ProbeError, Healthy: p.Healthy,
		Tarballs: []tarballBody{}, Snapshots: []tarballBody{},
	}
	if p.LatestTag != nil {
		b.LatestTag = *p.LatestTag
	}
	if p.SyncAt != nil {
		b.LastSync = &syncBody{At: *p.SyncAt, OK: p.SyncOK != nil && *p.SyncOK, NextTryAt: p.NextSyncAt, LastOKAt: p.SyncedAt}
		if !b.LastSync.OK {
			b.LastSync.Error = &jobErrorBody{p.SyncCode, p.SyncMessage}
		}
	}
	return b
}

func newTarballBody(r *storage.Release) tarballBody {
	t := tarballBody{
		Tag: r.Tag, URL: commitPath(r.Package, r.CommitOID), Size: r.Size, ManifestPresent: true,
		Commit: r.CommitOID, Tree: r.TreeOID, TagObject: r.TagOID,
		SHA256: r.Digest, MD5: r.MD5, CRC32: r.CRC32, ContentDigest: r.ContentDigest,
		CommitTime: r.CommitTime, CreatedAt: r.CreatedAt, Zig: r.Zig,
	}
	if r.Tag != "" {
		t.URL = tarballPath(r.Package, r.Tag)
	}
	return t
}

// listPackages serves GET /api/list.
func (s *Server) listPackages(w http.ResponseWriter, r *http.Request) error {
	v, err := s.directory.last(r.Context())
	if err != nil {
		return err
	}
	all, local, registered := []string{}, []string{}, []string{}
	for _, p := range v.packages {
		all = append(all, p.Name)
		if p.ReleaseCount > 0 {
			local = append(local, p.Name)
		}
		if p.Registered {
			registered = append(registered, p.Name)
		}
	}
	writeJSON(w, http.StatusOK, map[string][]string{"packages": all, "local_packages": local, "registered_packages": registered})
	return nil
}

func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
