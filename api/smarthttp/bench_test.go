package smarthttp

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// BenchmarkDepthOne is Zig's fetch of one release of about 300 KB, over
// loopback, with the client's work in it.
func BenchmarkDepthOne(b *testing.B) {
	u := newUpstream(b)
	url := serve(b, newMirror(b, u), Options{}) + "/pkg/git-upload-pack"
	body := zigFetch(u.git("rev-parse", "v2^{}"), 0)
	b.RunParallel(func(pb *testing.PB) {
		buf := make([]byte, 256<<10)
		for pb.Next() {
			req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, url, strings.NewReader(body))
			if err != nil {
				b.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/x-git-upload-pack-request")
			req.Header.Set("Git-Protocol", "version=2")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				b.Fatal(err)
			}
			n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, buf)
			if err != nil {
				b.Fatal(err)
			}
			resp.Body.Close()
			b.SetBytes(n)
		}
	})
}
