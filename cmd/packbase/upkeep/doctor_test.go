package upkeep

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/cmd/packbase/serve"
	"github.com/francescobianco/packbase/cmd/packbase/term"
	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/feed"
	"github.com/francescobianco/packbase/storage/storagetest"
)

func TestProgress(t *testing.T) {
	t.Parallel()
	for total, want := range map[int]string{0: "archives: 4\n", 9: "archives: 4 of 9\n"} {
		var said strings.Builder
		(&program{&term.Program{Stderr: &said}}).progress()("archives", 4, total)
		if said.String() != want {
			t.Errorf("progress says %q, want %q", said.String(), want)
		}
	}
}

func TestDoctorToken(t *testing.T) {
	t.Parallel()
	const token = "token-for-the-tests"
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "token"), []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		cfg  serve.Config
		want string
	}{
		{"set", serve.Config{Token: token}, "ok"},
		{"edge", serve.Config{ReadOnly: true}, "ok"},
		{"none wanted", serve.Config{AuthNone: true}, "warn"},
		{"none here", serve.Config{Addr: "127.0.0.1"}, "warn"},
		{"none for all", serve.Config{}, "warn"},
		{"made by packbase up", serve.Config{Root: root}, "ok"},
	}
	for _, tt := range tests {
		var out strings.Builder
		d := &doctor{cfg: &tt.cfg, s: (&term.Program{}).Screen(&out)}
		d.token(t.Context())
		if !strings.HasPrefix(out.String(), tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, out.String(), tt.want)
		}
	}
}

// An edge that takes nothing more from its central is told of, with what to do.
func TestDoctorCentral(t *testing.T) {
	t.Parallel()
	db := storagetest.NewDB(t)
	ctx := t.Context()
	for _, tt := range []struct {
		name string
		do   func() error
		want string
	}{
		{"never begun", func() error { return nil }, "warn  central    nothing of it is here yet: `packbase replicate`"},
		{"never answered", func() error { _, err := db.Feed.Follow(ctx, "https://c.example", false); return err }, "FAIL  central    https://c.example was last understood -; the log"},
		{"all is well", func() error { return db.Feed.Seen(ctx, 7) }, "ok    central    followed to change 0 of 7"},
		{"set aside", func() error {
			return db.Feed.SetChangeAside(ctx, feed.SetAside{Seq: 1, Body: "{}", Private: true, Reason: "x"}, feed.Change{Seq: 1})
		}, "warn  central    1 change cannot be taken over"},
		{"silent", func() error {
			_, err := db.Pool.Exec(ctx, `UPDATE replication SET synced_at = now() - interval '6 minutes'`)
			return err
		}, "FAIL  central    https://c.example was last understood 6 minutes ago"},
		{"halted", func() error { return db.Feed.Halt(ctx, "it lied") }, "FAIL  central    replication halted: it lied; what is here is served"},
	} {
		if err := tt.do(); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		d := &doctor{cfg: &serve.Config{}, s: (&term.Program{}).Screen(&out)}
		d.central(ctx, db)
		if !strings.HasPrefix(out.String(), tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, out.String(), tt.want)
		}
	}
}

func TestDoctorBytes(t *testing.T) {
	t.Parallel()
	db := storagetest.NewOwner(t)
	digest := strings.Repeat("a", 64)
	for _, tt := range []struct{ sql, want string }{
		{`SELECT`, "ok    bytes      none is known as damaged or lost"},
		{`INSERT INTO blobs (digest, size, created_at) VALUES ('` + digest + `', 1, now() - interval '2 hours');
			INSERT INTO packages (name, upstream, clone_url, record_digest) VALUES ('p', 'https://git.example/p', 'https://git.example/p', '` + digest + `')`,
			"warn  bytes      1 blob not read again within 1h0m0s"},
		{`UPDATE blobs SET damaged_at = now(), mend_at = now()`, "FAIL  bytes      1 blob damaged or lost"},
	} {
		if _, err := db.Pool.Exec(t.Context(), tt.sql); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		d := &doctor{cfg: &serve.Config{Scrub: time.Hour}, s: (&term.Program{}).Screen(&out)}
		d.bytes(t.Context(), db)
		if !strings.HasPrefix(out.String(), tt.want) {
			t.Errorf("%s: got %q, want %q", tt.sql, out.String(), tt.want)
		}
	}
}

// The blob that doctor tries is not left behind.
func TestDoctorLeavesNothing(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	store, err := blob.Open("file://" + root)
	if err != nil {
		t.Fatal(err)
	}
	d := &doctor{cfg: &serve.Config{Root: root}, s: (&term.Program{}).Screen(&strings.Builder{})}
	if err := d.tryBlob(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	for info, err := range store.List(t.Context()) {
		t.Errorf("got the blob %s, %v, want none", info.Digest, err)
	}
}
