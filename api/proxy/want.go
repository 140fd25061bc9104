package proxy

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// maxWant is how much of a Git request is read to find what it wants, in bytes. Zig's are shorter than 300.
const maxWant = 64 << 10

// wanted returns the ref that a request of git-upload-pack asks for: the first commit of a fetch, the first name of
// ls-refs that is no place for names, "" for HEAD or if it says nothing of the kind. The body can be read again.
//
// gitprotocol-v2(5).
func wanted(r *http.Request) (ref string, err error) {
	head, err := io.ReadAll(io.LimitReader(r.Body, maxWant))
	if err != nil {
		return "", err
	}
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(head), r.Body), r.Body}
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(bytes.NewReader(head))
		if err != nil {
			return "", err
		}
		head, _ = io.ReadAll(io.LimitReader(z, maxWant)) // it may be cut
	}
	for len(head) >= 4 {
		n, err := strconv.ParseUint(string(head[:4]), 16, 16)
		if err != nil || int(n) > len(head) {
			return "", nil
		}
		line := strings.TrimRight(string(head[min(4, n):max(n, 4)]), "\n\x00")
		head = head[max(n, 4):]
		if n < 4 {
			continue // a delimiter
		}
		if commit, ok := strings.CutPrefix(line, "want "); ok {
			commit, _, _ = strings.Cut(commit, " ")
			return strings.ToLower(commit), nil
		}
		if prefix, ok := strings.CutPrefix(line, "ref-prefix "); ok && prefix != "HEAD" {
			for _, place := range []string{"refs/tags/", "refs/heads/"} {
				prefix = strings.TrimPrefix(prefix, place)
			}
			if prefix != "" && !strings.HasPrefix(prefix, "refs/") {
				return prefix, nil
			}
		}
	}
	return "", nil
}
