package browser_test

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/engines"
	"github.com/francescobianco/packbase/tests/harness"
	"github.com/francescobianco/packbase/tests/harness/engine"
)

// maxPicture bounds a picture in the documents, in bytes.
const maxPicture = 150 << 10

// TestPictures takes the pictures that the documents show, into the folder that
// PACKBASE_PICTURES names: `make screenshots`.
func TestPictures(t *testing.T) {
	dir := os.Getenv("PACKBASE_PICTURES")
	if dir == "" {
		t.Skip("PACKBASE_PICTURES names no folder")
	}
	s := showcase(t)
	at, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	// The pages say how they were asked for.
	b := newTab(t, "http://packbase.example.org", chromedp.Flag("host-resolver-rules", "MAP packbase.example.org:80 "+at.Host))
	for _, p := range []struct {
		name, path, selector, says string
		height                     int64
	}{
		{"package.png", "/args", "#release", "zig fetch --save", 780},
		{"status.png", "/", "h1", "All is well", 700},
	} {
		b.do(chromedp.EmulateViewport(1120, p.height))
		b.open(p.path)
		b.await(p.selector, p.says)
		ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
		png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		if len(png) > maxPicture {
			t.Errorf("%s has %d bytes, want at most %d", p.name, len(png), maxPicture)
		}
		if err := os.WriteFile(filepath.Join(dir, p.name), png, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// showcase returns a packbase with the packages of the pictures, which come
// from where people have theirs.
func showcase(t *testing.T) *harness.Server {
	t.Helper()
	e := engine.New(t, engines.Options{})
	s, up := harness.Start(t, e.Env()...), harness.NewUpstream(t)
	argsLibrary(up)
	library(up.Repo("zig-toml"), "toml", "v0.2.0", "v0.3.0")
	library(up.Repo("zig-regex"), "regex", "v0.1.1", "v0.1.2")
	for _, name := range []string{"args", "zig-toml", "zig-regex"} {
		s.Fetch(up.URL + "/" + name)
	}
	conn, err := pgx.Connect(t.Context(), s.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), `UPDATE packages SET upstream = 'https://codeberg.org/somebody/' || name, clone_url = 'https://codeberg.org/somebody/' || name`); err != nil {
		t.Fatal(err)
	}
	return s
}
