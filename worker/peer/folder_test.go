package peer_test

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/feed"
	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/release"
	"github.com/francescobianco/packbase/worker/peer"
	"github.com/francescobianco/packbase/worker/probe"
	"github.com/francescobianco/packbase/worker/workertest"
)

// An edge that has only the folder of its central goes on past a blob that is not there, as past one that a central does not
// give, and past one that it refuses and cannot remove, and copies nothing.
func TestFolder(t *testing.T) {
	t.Parallel()
	central, edge := workertest.New(t), workertest.New(t)
	stop := central.Work()
	lost := central.Mirror("hello", "v1.0.0", "v2.0.0")[0]
	other := central.Mirror("other", "v1.0.0")[0]
	central.Spoil(lost.Digest, nil)
	refuse(t, central, other)

	below, err := blob.ReadDisk(central.Dir)
	edge.Must(err)
	index := feed.IndexIn(central.Dir)
	r := &peer.Replica{
		DB: edge.DB, Blobs: blob.Over(edge.Blobs, below), Staging: edge.Staging, Central: "file://" + central.Dir,
		HTTP: &http.Client{Transport: peer.Folder{Index: index, Blobs: below}}, Retry: 5 * time.Millisecond,
		Log:    slog.New(slog.NewTextHandler(&edge.Log, nil)),
		Prober: &probe.Prober{DB: edge.DB, Staging: edge.Staging, Git: http.NotFoundHandler(), Limits: gitpack.StoredLimits()},
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	caughtUp(t, edge, central)
	stop()
	same(t, edge, central, "other")
	same(t, edge, central, "hello", "v1.0.0")
	if aside := asideOf(t, edge); len(aside) != 2 || aside[0].Tag != "v1.0.0" || aside[1].Tag != "v2.0.0" {
		t.Errorf("set aside: %+v, want the one whose tarball is not there, and the one that is refused", aside)
	}
	if _, err := edge.Blobs.Stat(t.Context(), other.Digest); err == nil {
		t.Error("a tarball that can be read where it is was copied")
	}
	edge.Must(edge.Feed.RetrySetAside(t.Context()))
	edge.Eventually("it was tried again, and stays aside", func() bool { return asideOf(t, edge)[0].Tries == 2 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// refuse has the central tell of another release of a package, which nobody publishes.
func refuse(t *testing.T, central *workertest.Registry, rel storage.Release) {
	t.Helper()
	man, err := release.LoadManifest(t.Context(), central.Blobs, rel.ManifestDigest)
	central.Must(err)
	man.Tag, man.TagObject, man.Git.Tags, man.Description = "v2.0.0", "", nil, "a\x00b"
	raw, err := man.Encode()
	central.Must(err)
	f, err := os.Create(filepath.Join(t.TempDir(), "manifest"))
	central.Must(err)
	defer f.Close()
	_, err = f.Write(raw)
	central.Must(err)
	ref := blob.Ref{Digest: hexSum(sha256.New(), raw), Size: int64(len(raw))}
	central.Must(central.Blobs.Put(t.Context(), ref.Digest, f))
	central.Must(central.Tx(t.Context(), func(tx pgx.Tx) error {
		return feed.Add(t.Context(), tx, feed.Body{Package: man.Package, Tag: man.Tag, Commit: man.Commit, Manifest: ref,
			Tarball: blob.Ref{Digest: man.Tarball.Digest, Size: man.Tarball.Size}})
	}))
}
