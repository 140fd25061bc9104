package smarthttp

import (
	"compress/gzip"
	"io"
	"log/slog"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/storage/pktline"
)

// Whatever a client sends, it gets an answer with content, of the length that
// was announced, and no 5xx. Only Git's probe, a lone flush, gets nothing.
func FuzzUploadPack(f *testing.F) {
	u := newUpstream(f)
	h := New(newMirror(f, u), Options{MaxWants: 20, MaxHaves: 20}, slog.New(slog.DiscardHandler))
	v1, v2 := u.git("rev-parse", "v1^{}"), u.git("rev-parse", "v2")
	f.Add("version=2", "", zigFetch(v1, 0))
	f.Add("version=2", "", pkt("command=ls-refs\n", pktline.Delim, "peel\n", "symrefs\n", "unborn\n", "ref-prefix refs/\n", pktline.Flush))
	f.Add("version=2", "", pkt("command=fetch", "object-format=sha1", pktline.Delim, "thin-pack", "no-progress", "include-tag", "ofs-delta",
		"shallow "+v1, "wait-for-done", "want "+v2, "have "+v1, pktline.Flush))
	f.Add("version=1", "", pkt("want "+v2+" multi_ack_detailed no-done side-band-64k include-tag", "shallow "+v1, "deepen 1", pktline.Flush, "have "+v1, pktline.Flush))
	f.Add("", "gzip", pkt("want "+v2+" multi_ack side-band", pktline.Flush, "have "+v1, "done"))
	f.Fuzz(func(t *testing.T, version, encoding, body string) {
		r := httptest.NewRequest("POST", "/pkg/git-upload-pack", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/x-git-upload-pack-request")
		r.Header.Set("Git-Protocol", version)
		r.Header.Set("Content-Encoding", encoding)
		w := httptest.NewRecorder()
		h.UploadPack(w, r, "pkg")
		if w.Code >= 500 || w.Body.Len() == 0 && (w.Code != 200 || inflated(encoding, body) != pktline.Flush) {
			t.Errorf("%d, %d bytes", w.Code, w.Body.Len())
		}
		if n := w.Header().Get("Content-Length"); w.Code == 200 && n != strconv.Itoa(w.Body.Len()) {
			t.Errorf("Content-Length = %s, want %d", n, w.Body.Len())
		}
	})
}

// inflated returns what is sent in body, "" if it cannot be read.
func inflated(encoding, body string) string {
	if encoding == "" || encoding == "identity" {
		return body
	}
	z, err := gzip.NewReader(strings.NewReader(body))
	if err != nil {
		return ""
	}
	b, _ := io.ReadAll(z)
	return string(b)
}
