package answer

import (
	"io"
	"net/http"
)

// A CountingBody counts what is read of a request's body.
type CountingBody struct {
	io.ReadCloser
	N     int64
	ended bool // read to its end
}

func (b *CountingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.N += int64(n)
	b.ended = b.ended || err == io.EOF
	return n, err
}

// leaveUnread lets an answer out although the request's body is not read, and
// closes the connection. Else net/http would read on first, and an endless
// body would hold the answer back.
func leaveUnread(w http.ResponseWriter, r *http.Request) {
	if b, ok := r.Body.(*CountingBody); ok && r.ContentLength != 0 && !b.ended {
		w.Header().Set("Connection", "close")
	}
}
