package api

import (
	"net/http"
	"slices"
	"time"

	"github.com/go-chi/chi/v5"

	"packbase/storage"
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
	releases, err := s.db.Releases(ctx, p.Name)
	if err != nil {
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
	body := newPackageBody(p, releases)
	removed, err := s.db.Tombstones(ctx, p.Name)
	if err != nil {
		return nil, err
	}
	for i := range removed { // its digests are of use to nobody
		removed[i] = storage.Tombstone{Tag: removed[i].Tag, TagOID: removed[i].TagOID, CommitOID: removed[i].CommitOID, Reason: removed[i].Reason, RemovedAt: removed[i].RemovedAt}
	}
	body.RejectedTags, body.MovedTags, body.RemovedTags = orEmpty(rejected), orEmpty(moved), orEmpty(removed)
	return body, nil
}

func newPackageBody(p storage.Package, releases []storage.Release) *packageBody {
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
	hidden := storage.HiddenTags(releases)
	for i := range releases {
		r := &releases[i]
		if t := newTarballBody(r); r.Tag == "" {
			b.Snapshots = append(b.Snapshots, t)
		} else {
			t.GitHidden = hidden[r.Tag]
			b.Tarballs = append(b.Tarballs, t)
		}
	}
	slices.SortFunc(b.Tarballs, func(x, y tarballBody) int {
		return storage.CompareTags(y.Tag, y.CommitTime, x.Tag, x.CommitTime)
	})
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
