package upkeep_test

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage/access"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/storage/release/releasetest"
	"github.com/francescobianco/packbase/worker/upkeep"
	"github.com/francescobianco/packbase/worker/workertest"
)

const (
	soundWho    = "t <t@example.org> 1700000000 +0000"
	soundTagger = "\ntype commit\ntag v1.0.0\ntagger " + soundWho + "\n\nmessage\n"
)

// made is a release as somebody who lies would make it: every digest and id of
// the manifest is right.
func made(t *testing.T, pkg, tag, author, tagger string, files map[string]string) (man *release.Manifest, targz *os.File) {
	t.Helper()
	src := releasetest.New(t)
	oid := src.Add(gitpack.Commit, "tree "+src.Tree(files).String()+"\nauthor "+author+"\ncommitter "+soundWho+"\n\nmessage\n")
	if tagger != "" {
		oid = src.Add(gitpack.Tag, "object "+oid.String()+tagger)
	}
	targz, err := os.Create(filepath.Join(t.TempDir(), "targz"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { targz.Close() })
	return src.Build(targz, src.Root(tag, oid), release.Manifest{Package: pkg, Upstream: "fixture:" + pkg, CloneURL: "fixture:" + pkg + ".git",
		CreatedAt: time.Unix(1_700_000_001, 0).UTC(), Fence: 1}), targz
}

// What the process that reads upstream refuses is not published by other ways
// either: not because that process says so, and not because a central has it.
func TestNoOtherWayIn(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	a, _ := auditor(r)
	file := map[string]string{"build.zig": "// hello\n"}
	tests := map[string]struct {
		tag, author, tagger string
		files               map[string]string
		want                string // "" if it is sound
	}{
		"sound":             {"v1.0.0", soundWho, soundTagger, file, ""},
		"author":            {"v1.0.0", "t t@example.org 1700000000 +0000", soundTagger, file, "commit: author"},
		"date":              {"v1.0.0", "t <t@example.org> 01700000000 +0000", "", file, "commit: author"},
		"tagger":            {"v1.0.0", soundWho, "\ntype commit\ntag v1.0.0\ntagger t <t@example.org> soon +0000\n\nmessage\n", file, "tag: tagger"},
		"gitmodules":        {"v1.0.0", soundWho, "", map[string]string{".gitmodules": "[submodule \"x\"]\n\tpath = x\n\turl = -u./payload\n"}, "option"},
		"gitmodules-update": {"v1.0.0", soundWho, "", map[string]string{"sub/.gitmodules": "[submodule \"x\"]\n\tupdate = !payload\n"}, "runs a command"},
		"gitattributes":     {"v1.0.0", soundWho, "", map[string]string{".gitattributes": strings.Repeat("x", 2048) + "\n"}, "line of 2048 bytes"},
		"named-as-a-commit": {strings.Repeat("ab", 20), soundWho, "", file, "named like a commit"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			man, targz := made(t, name, test.tag, test.author, test.tagger, test.files)
			check := func(way string, err error) {
				t.Helper()
				switch {
				case test.want == "" && err != nil:
					t.Errorf("%s: %v, want no error", way, err)
				case test.want != "" && (!errors.Is(err, release.ErrUntrue) || !strings.Contains(err.Error(), test.want)):
					t.Errorf("%s: %v, want it refused because of %q", way, err, test.want)
				}
			}
			_, err := releasetest.New(t).Load(man, io.NewSectionReader(targz, 0, 1<<30))
			check("proven", err)

			raw, err := man.Encode()
			r.Must(err)
			sum := sha256.Sum256(raw)
			manifest := blob.Ref{Digest: hex.EncodeToString(sum[:]), Size: int64(len(raw))}
			r.Must(put(t, r, raw, manifest.Digest))
			r.Must(r.Blobs.Put(t.Context(), man.Tarball.Digest, targz))
			check("adopted", a.Adopt(t.Context(), name, []blob.Ref{manifest}, false))
			if _, err := r.ReleaseByTag(t.Context(), name, test.tag); (err == nil) != (test.want == "") {
				t.Errorf("the release is here: %v, want it %v", err == nil, test.want == "")
			}
			db, found := rebuild(t, r)
			if _, err := db.ReleaseByTag(access.SeePrivate(t.Context()), name, test.tag); (err == nil) != (test.want == "") {
				t.Errorf("the release was rebuilt: %v, want it %v", err == nil, test.want == "")
			}
			if told := slices.ContainsFunc(found, func(f upkeep.Finding) bool {
				return f.Code == "release_lost" && f.Subject == name+"@"+test.tag && strings.Contains(f.Problem, test.want)
			}); told != (test.want != "") {
				t.Errorf("rebuild finds %v, want it to refuse the release because of %q", found, test.want)
			}
			// Nor is a hash that is not its own all that is wrong with it then.
			r.Spoil(manifest.Digest, nil)
			man.Zig.LegacyHash = "1220" + strings.Repeat("0", 64)
			raw, err = man.Encode()
			r.Must(err)
			r.Must(put(t, r, raw, digestOf(raw)))
			if db, _ = rebuild(t, r); test.want != "" {
				if _, err := db.ReleaseByTag(access.SeePrivate(t.Context()), name, test.tag); err == nil {
					t.Error("the release was rebuilt, as its Zig hash is wrong, too")
				}
			}
		})
	}
}

// A tag that says of its commit that it is something else breaks every clone.
func TestTagOfAnotherType(t *testing.T) {
	t.Parallel()
	man, targz := made(t, "hello", "v1.0.0", soundWho, "", map[string]string{"build.zig": "// hello\n"})
	for typ, want := range map[string]string{"commit": "", "tree": "says that"} {
		raw := "object " + man.Commit + "\ntype " + typ + strings.TrimPrefix(soundTagger, "\ntype commit")
		id := sha1.Sum(fmt.Appendf(nil, "tag %d\x00%s", len(raw), raw))
		man.TagObject, man.Git.Tags = hex.EncodeToString(id[:]), [][]byte{[]byte(raw)}
		_, err := releasetest.New(t).Load(man, io.NewSectionReader(targz, 0, 1<<30))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("a tag of a %s: %v, want %q", typ, err, want)
		}
	}
}

// A store that is full fails the adoption, whatever it was that had no room:
// nothing is published, and the same works once there is room.
func TestAdoptWithoutRoom(t *testing.T) {
	t.Parallel()
	r := workertest.New(t)
	a, _ := auditor(r)
	man, targz := made(t, "hello", "v1.0.0", soundWho, soundTagger, map[string]string{"build.zig": "// hello\n"})
	raw, err := man.Encode()
	r.Must(err)
	manifest := blob.Ref{Digest: digestOf(raw), Size: int64(len(raw))}
	r.Must(put(t, r, raw, manifest.Digest))
	r.Must(r.Blobs.Put(t.Context(), man.Tarball.Digest, targz))
	for n := 1; ; n++ {
		store := &fullStore{Store: r.Blobs, at: n}
		a.Blobs = store
		err := a.Adopt(t.Context(), "hello", []blob.Ref{manifest}, false)
		if store.puts < n { // it had room for all
			if _, gone := r.ReleaseByTag(t.Context(), "hello", "v1.0.0"); err != nil || gone != nil {
				t.Errorf("with room: %v; the release: %v", err, gone)
			}
			if n < 3 {
				t.Errorf("%d blobs were written, want a segment and its index", n-1)
			}
			return
		}
		if !errors.Is(err, blob.ErrFull) {
			t.Errorf("no room for blob %d: %v, want ErrFull", n, err)
		}
		if _, err := r.ReleaseByTag(t.Context(), "hello", "v1.0.0"); !errors.Is(err, fault.ErrNotFound) {
			t.Fatalf("no room for blob %d: the release is here (%v)", n, err)
		}
	}
}

// A fullStore has no room for one of the blobs that are put.
type fullStore struct {
	blob.Store
	at, puts int
}

func (s *fullStore) Put(ctx context.Context, digest string, f *os.File) error {
	if s.puts++; s.puts == s.at {
		return blob.ErrFull
	}
	return s.Store.Put(ctx, digest, f)
}
