package upkeep_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/release/releasetest"
	"github.com/francescobianco/packbase/storage/storagetest"
	"github.com/francescobianco/packbase/storage/tarball"
	"github.com/francescobianco/packbase/worker/upkeep"
	"github.com/francescobianco/packbase/worker/workertest"
)

// mirrored returns a registry whose worker has stopped, a release in it, and the manifest's bytes.
func mirrored(t *testing.T) (r *workertest.Registry, rel storage.Release, manifest []byte) {
	t.Helper()
	r = workertest.New(t)
	stop := r.Work()
	rel = r.Mirror("hello", "v1.0.0")[0]
	stop()
	manifest, err := os.ReadFile(r.Path(rel.ManifestDigest))
	r.Must(err)
	return r, rel, manifest
}

// A tarball of other files under the name of upstream's commit is not proven, even if all else of the manifest is right.
func TestProveOtherFiles(t *testing.T) {
	t.Parallel()
	r, rel, raw := mirrored(t)
	man, err := release.ParseManifest(raw)
	r.Must(err)
	targz, err := os.Open(r.Path(rel.Digest))
	r.Must(err)
	defer targz.Close()
	prove := func(man *release.Manifest, targz io.Reader) (*release.Unpacked, error) {
		return releasetest.New(t).Load(man, targz)
	}
	proof, err := prove(man, targz)
	if err != nil || proof.Commit.String() != rel.CommitOID || proof.Zig.Hash != rel.ZigHash {
		t.Errorf("the true tarball: %v, %v", proof, err)
	}

	src := releasetest.New(t)
	commit, err := gitpack.ParseCommit(man.Git.Commit)
	r.Must(err)
	commit.Tree = src.Tree(map[string]string{"build.zig": "evil"})
	oid := src.Add(gitpack.Commit, string(man.Git.Commit))
	var evil bytes.Buffer
	other := src.Build(&evil, &release.Root{Tag: man.Tag, OID: oid, Commit: oid, Info: commit}, *man)
	other.Git.Tags, other.TagObject = man.Git.Tags, man.TagObject
	if _, err := prove(other, &evil); !errors.Is(err, release.ErrUntrue) || !strings.Contains(err.Error(), "has the tree") {
		t.Errorf("a tarball of other files: %v, want that the commit has another tree", err)
	}
}

// A manifest is not proven whose commit, or tarball, has the id of another one,
// be it of a release or of a snapshot.
func TestProveOtherCommit(t *testing.T) {
	t.Parallel()
	r, rel, raw := mirrored(t)
	const other = "1234567890123456789012345678901234567890"

	// tarballOf returns the tarball as if it were of commit, and notes its digests.
	tarballOf := func(man *release.Manifest, commit string) io.Reader {
		f, err := os.Open(r.Path(rel.Digest))
		r.Must(err)
		defer f.Close()
		z, err := gzip.NewReader(f)
		r.Must(err)
		tar, err := io.ReadAll(z)
		r.Must(err)
		var targz bytes.Buffer
		w := gzip.NewWriter(&targz)
		_, err = w.Write(bytes.ReplaceAll(tar, []byte(rel.CommitOID), []byte(commit)))
		r.Must(errors.Join(err, w.Close()))
		_, info, err := tarball.Read(bytes.NewReader(targz.Bytes()), man.Tarball.Prefix, tarball.Limits{}, func(tarball.Entry, io.Reader) error { return nil })
		r.Must(err)
		man.Tarball = release.Tarball{Digest: info.Digest, Size: info.Size, MD5: info.MD5, CRC32: info.CRC32,
			ContentDigest: info.ContentDigest, ContentSize: info.ContentSize, Prefix: man.Tarball.Prefix, Form: man.Tarball.Form}
		return &targz
	}
	for _, tt := range []struct{ name, manifest, tarball, want string }{
		{"true", rel.CommitOID, rel.CommitOID, ""},
		{"both", other, other, "the commit in the manifest has the id"},
		{"tarball", rel.CommitOID, other, "the tarball is of the commit"},
	} {
		for _, tag := range []string{"v1.0.0", ""} {
			t.Run(tt.name+" "+tag, func(t *testing.T) {
				man, err := release.ParseManifest(raw)
				if err != nil {
					t.Fatal(err)
				}
				man.Tag, man.Git.Tags, man.TagObject = tag, nil, ""
				targz := tarballOf(man, tt.tarball)
				man.Commit = tt.manifest
				_, err = releasetest.New(t).Load(man, targz)
				if tt.want == "" && err != nil || tt.want != "" && (!errors.Is(err, release.ErrUntrue) || !strings.Contains(err.Error(), tt.want)) {
					t.Errorf("err = %v, want %q", err, tt.want)
				}
			})
		}
	}
}

// Rows of a database that was altered, as in a dump, are found by verify, and a Zig hash that is another release's is not
// answered for.
func TestVerifyAlteredRows(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	r.DB = storagetest.NewOwner(t)
	stop := r.Work()
	r.Mirror("victim", "v1.0.0")
	r.Mirror("hello", "v1.0.0", "v2.0.0")
	stop()
	exec := func(sql string) {
		t.Helper()
		_, err := r.Pool.Exec(t.Context(), sql)
		r.Must(err)
	}
	exec(`ALTER TABLE releases DISABLE TRIGGER USER; CREATE TABLE was AS SELECT * FROM releases`)
	const victim = `FROM was v WHERE v.package = 'victim' AND r.package = 'hello' AND r.tag = 'v1.0.0'`
	for sql, code := range map[string]string{
		`digest = v.digest, size = v.size`:               "release_tree",
		`commit_oid = v.commit_oid, tag_oid = v.tag_oid`: "release_tree",
		`tree_oid = v.tree_oid`:                          "release_tree",
		`md5 = v.md5`:                                    "release_tree",
		`zig_hash = v.zig_hash || 'A', zig_legacy_hash = v.zig_legacy_hash`: "zig_hash",
		`manifest_digest = v.manifest_digest`:                               "release_tree",
	} {
		exec(`UPDATE releases r SET ` + sql + ` ` + victim)
		a, found := auditor(r)
		r.Must(a.Verify(t.Context(), false))
		if len(*found) != 1 || (*found)[0].Code != code || (*found)[0].Subject != "hello@v1.0.0" {
			t.Errorf("%s: found %v, want %s of hello@v1.0.0", sql, *found, code)
		}
		exec(`UPDATE releases r SET digest = v.digest, size = v.size, commit_oid = v.commit_oid, tag_oid = v.tag_oid, tree_oid = v.tree_oid, md5 = v.md5,
			zig_hash = v.zig_hash, zig_legacy_hash = v.zig_legacy_hash, manifest_digest = v.manifest_digest FROM was v WHERE v.id = r.id`)
	}
}

// A release whose files do not have the Zig hash of its row, as an earlier build could publish it, is found by verify and by
// rebuild, and no longer answers for that hash.
func TestRefutedZigHash(t *testing.T) {
	t.Parallel()
	r, rel, raw := mirrored(t)
	man, err := release.ParseManifest(raw)
	r.Must(err)
	const stolen = "N-V-__8AAAMAAABcr-E1sk8PMfTOvpi9Hds_wwtndnHnR26_"
	man.Zig.Hash = stolen
	man.Fence++ // so that it counts, not the true one
	raw, err = man.Encode()
	r.Must(err)
	sum := sha256.Sum256(raw)
	forged := blob.Ref{Digest: hex.EncodeToString(sum[:]), Size: int64(len(raw))}
	r.Must(put(t, r, raw, forged.Digest))

	packs, err := r.Packs(t.Context(), "hello", []string{rel.OID()})
	r.Must(err)
	segments, err := r.Segments(t.Context(), "hello")
	r.Must(err)
	named, err := r.Scrub.Named(t.Context())
	r.Must(err)
	pub := storage.PublicationOf(man, forged, gitpack.Stored{})
	pub.Pack = packs[0].Pack
	published := storage.Adoption{Publications: []storage.Publication{pub}, Segments: segments}
	for _, s := range segments {
		published.Indexes = append(published.Indexes, blob.Ref{Digest: s.IndexDigest, Size: named[s.IndexDigest]})
	}

	tests := map[string]func(t *testing.T, db *storage.DB, a *upkeep.Auditor) error{
		"verify": func(t *testing.T, db *storage.DB, a *upkeep.Auditor) error {
			if err := db.Adopt(t.Context(), "hello", published); err != nil {
				return err
			}
			if _, err := db.ReleaseByZigHash(t.Context(), stolen); err != nil {
				t.Errorf("before: %v, want the release", err)
			}
			return a.Verify(t.Context(), false)
		},
		"rebuild": func(t *testing.T, _ *storage.DB, a *upkeep.Auditor) error { return a.Rebuild(t.Context()) },
	}
	for name, run := range tests {
		t.Run(name, func(t *testing.T) {
			db := storagetest.NewDB(t)
			a, found := auditor(r)
			a.DB = db
			if err := run(t, db, a); err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(*found, func(f upkeep.Finding) bool { return f.Code == "zig_hash" && f.Subject == "hello@v1.0.0" }) {
				t.Errorf("found %v, want zig_hash", *found)
			}
			if _, err := db.ReleaseByTag(t.Context(), "hello", "v1.0.0"); err != nil {
				t.Errorf("the release itself: %v", err)
			}
			if _, err := db.ReleaseByZigHash(t.Context(), stolen); !errors.Is(err, fault.ErrNotFound) {
				t.Errorf("afterwards: %v, want that nothing has the hash", err)
			}
		})
	}
}
