package api_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage/jobs"
)

// After whatever two servers could read in two ways, the connection ends: no
// second request is taken from its bytes (HT-02, R-24).
func TestSmuggling(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	const next = "GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	post := func(headers, body string) string {
		return "POST /api/fetch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token + "\r\n" + headers + "\r\n" + body + next
	}
	tests := []struct {
		name    string
		request string
		status  int // of the first answer
		answers int
	}{
		{"two requests", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + next, 200, 2},
		{"body of a GET", "GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello" + next, 200, 2},
		{"body that is read", post("Content-Length: 2\r\n", "{}"), 400, 2},
		{"chunked", post("Transfer-Encoding: chunked\r\n", "2\r\n{}\r\n0\r\n\r\n"), 400, 1},
		{"chunked, answered well", "GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + next, 200, 1},
		{"chunked with trailers", post("Transfer-Encoding: chunked\r\nTrailer: A\r\n", "2\r\n{}\r\n0\r\nA: b\r\n\r\n"), 400, 1},
		{"chunk extension", post("Transfer-Encoding: chunked\r\n", "2;a=b\r\n{}\r\n0\r\n\r\n"), 400, 1},
		{"length and chunked", post("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\nX"), 400, 1},
		{"chunked and length", post("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", "2\r\n{}\r\n0\r\n\r\n"), 400, 1},
		{"two lengths", post("Content-Length: 2\r\nContent-Length: 3\r\n", "{}"), 400, 1},
		{"list of lengths", post("Content-Length: 2, 3\r\n", "{}"), 400, 1},
		{"negative length", post("Content-Length: -1\r\n", "{}"), 400, 1},
		{"signed length", post("Content-Length: +2\r\n", "{}"), 400, 1},
		{"hexadecimal length", post("Content-Length: 0x2\r\n", "{}"), 400, 1},
		{"huge length", post("Content-Length: 99999999999999999999\r\n", "{}"), 400, 1},
		{"space before colon", post("Content-Length : 2\r\n", "{}"), 400, 1},
		{"space before chunked's colon", post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"), 400, 1},
		{"unknown encoding", post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), 501, 1},
		{"identity", post("Transfer-Encoding: identity\r\n", "{}"), 501, 1},
		{"chunked twice", post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"), 501, 1},
		{"two encodings", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"), 501, 1},
		{"vertical tab", post("Transfer-Encoding: \vchunked\r\n", "0\r\n\r\n"), 400, 1},
		{"bare LF in chunks", post("Transfer-Encoding: chunked\r\n", "2\n{}\n0\n\n"), 400, 1},
		{"chunk size with sign", post("Transfer-Encoding: chunked\r\n", "+2\r\n{}\r\n0\r\n\r\n"), 400, 1},
		{"chunk size too long", post("Transfer-Encoding: chunked\r\n", "00000000000000000000002\r\n{}\r\n0\r\n\r\n"), 400, 1},
		{"chunked by HTTP/1.0", "POST /api/fetch HTTP/1.0\r\nHost: x\r\nAuthorization: Bearer " + token + "\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n0\r\n\r\n" + next, 400, 1},
		{"no Host", "GET /healthz HTTP/1.1\r\n\r\n" + next, 400, 1},
		{"two Hosts", "GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + next, 400, 1},
		{"folded header", "GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: b\r\n Content-Length: 50\r\n\r\n" + next, 200, 2},
		{"line without colon", "GET /healthz HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n" + next, 400, 1},
		{"NUL in a header", "GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: \x00\r\n\r\n" + next, 400, 1},
		{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + next, 400, 1},
		{"HTTP/0.9", "GET /healthz\r\n\r\n", 400, 1},
		{"TLS", "\x16\x03\x01\x02\x00\r\n\r\n", 400, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := g.raw(tt.request)
			if status := statusOf(got); status != tt.status {
				t.Errorf("status %d, want %d: %.200q", status, tt.status, got)
			}
			if n := strings.Count(got, "HTTP/1."); n != tt.answers {
				t.Errorf("%d answers, want %d: %q", n, tt.answers, got)
			}
		})
	}
}

// Half a request has no effect, also when the half is a whole object.
func TestTruncatedBodies(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	const object = `{"url":"https://git.example/owner/cut"}`
	for _, tt := range []struct{ name, headers, body string }{
		{"length", "Content-Length: 100\r\n", object},
		{"length, nothing sent", "Content-Length: 100\r\n", ""},
		{"chunk", "Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x\r\n%s", len(object)+10, object)},
		{"no last chunk", "Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x\r\n%s\r\n", len(object), object)},
		{"no end of last chunk", "Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x\r\n%s\r\n0\r\n", len(object), object)},
	} {
		conn := g.dial()
		fmt.Fprintf(conn, "POST /api/fetch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n%s\r\n%s", token, tt.headers, tt.body)
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(conn) // the server may have cut it
		if status := statusOf(string(got)); status != http.StatusBadRequest {
			t.Errorf("%s: status %d, want 400: %.300q", tt.name, status, got)
		}
	}
	if jobs, err := g.db.Jobs.List(t.Context(), jobs.Filter{Limit: 1}); err != nil || len(jobs) > 0 {
		t.Errorf("jobs = %v, %v, want none", jobs, err)
	}
}

// dial opens a connection that ends with the test.
func (g *registry) dial() net.Conn {
	g.t.Helper()
	conn, err := net.Dial("tcp", g.addr)
	g.must(err)
	g.t.Cleanup(func() { conn.Close() })
	g.must(conn.SetDeadline(time.Now().Add(40 * time.Second)))
	return conn
}

// What is refused for its token or its size is refused before the body is
// there (AU-04, R-12).
func TestAnswerBeforeBody(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	for _, auth := range []string{"", "Authorization: Bearer wrong-wrong-wrong-wrong\r\n", "Authorization: Basic eDp5\r\n"} {
		for _, length := range []string{"Content-Length: 1073741824\r\n", "Content-Length: 60000\r\n", "Transfer-Encoding: chunked\r\n"} {
			for _, path := range []string{"/api/fetch", "/api/check", "/api/review/hello", "/hello/git-receive-pack", "/nope/nope"} {
				t.Run(auth+length+path, func(t *testing.T) {
					t.Parallel()
					conn := g.dial()
					fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\n%s%s\r\n1\r\n{", path, auth, length)
					start := time.Now()
					resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
					if err != nil {
						t.Fatal(err)
					}
					resp.Body.Close()
					if took := time.Since(start); took > 20*time.Second || resp.StatusCode < 400 || !resp.Close {
						t.Errorf("status %d after %v, closing %v; want an error at once, and the connection closed", resp.StatusCode, took, resp.Close)
					}
				})
			}
		}
	}
}

// HT-07.
func TestBigHeaders(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	many := strings.Repeat("a: b\r\n", 10_000)
	for _, tt := range []struct {
		name, request string
		status        int
	}{
		{"one of 1 MiB", "GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: " + strings.Repeat("a", 1<<20) + "\r\n\r\n", 431},
		{"10,000", "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + many + "\r\n", 200},
		{"100,000", "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + strings.Repeat(many, 10) + "\r\n", 431},
		{"a name of 1 MiB", "GET /healthz HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("a", 1<<20) + ": b\r\n\r\n", 431},
		{"100,000 query keys", requestLine("GET", "/api/search?q=a"+strings.Repeat("&a=1", 100_000)), 431},
		{"9,999 query keys", requestLine("GET", "/api/search?q=a"+strings.Repeat("&a=1", 9_998)), 200},
		{"10,001 query keys", requestLine("GET", "/api/search?q=a"+strings.Repeat("&a=1", 10_000)), 400},
		{"a path of 50,000", requestLine("GET", "/api/info/"+strings.Repeat("a", 50_000)), 404},
		{"a path of 1 MiB", requestLine("GET", "/"+strings.Repeat("a", 1<<20)), 431},
	} {
		if got := g.raw(tt.request); statusOf(got) != tt.status {
			t.Errorf("%s: %.100q, want %d", tt.name, got, tt.status)
		}
	}
}
