package blob_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/blob/blobtest"
)

func TestS3(t *testing.T) {
	t.Parallel()
	server := blobtest.StartS3(t)
	t.Run("contract", func(t *testing.T) {
		t.Parallel()
		blobtest.Run(t, func(t *testing.T) blobtest.Fixture {
			b := server.NewBucket(t)
			return blobtest.Fixture{Store: openURL(t, b.URL), Path: b.Path, Big: bigBlob}
		})
	})
	for name, test := range map[string]func(*testing.T, *blobtest.S3Server){
		"put through faults":  testS3Faults,
		"put that must fail":  testS3Refusals,
		"read through faults": testS3Reading,
		"read that must fail": testS3ReadRefused,
		"not let in":          testS3NotLetIn,
		"range not honoured":  testS3Range,
		"frozen":              testS3Frozen,
		"cancelled upload":    testS3Cancel,
		"sweep":               testS3Sweep,
		"requests":            testS3Requests,
		"checked":             testCheckedS3,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, server)
		})
	}
}

// Three parts of the size that the test buckets ask for.
const bigBlob = 11 << 20

func openURL(t *testing.T, url string) blob.Store {
	t.Helper()
	s, err := blob.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What a request does, judged as a server would.
func isPut(r *http.Request) bool {
	return r.Method == http.MethodPut && r.URL.RawQuery == "" && r.Header.Get("X-Amz-Copy-Source") == ""
}

func isPart(r *http.Request) bool {
	return r.Method == http.MethodPut && r.URL.Query().Has("partNumber")
}

func isComplete(r *http.Request) bool {
	return r.Method == http.MethodPost && r.URL.Query().Has("uploadId")
}

func isHead(r *http.Request) bool { return r.Method == http.MethodHead }

func isGet(r *http.Request) bool { return r.Method == http.MethodGet }

// A fault spoils a request. It may pass it on to next first.
type fault func(w http.ResponseWriter, r *http.Request, next http.Handler)

// answer is a fault: the server answers like this and does nothing.
func answer(status int, code string) fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		io.WriteString(w, "<?xml version=\"1.0\"?><Error><Code>"+code+"</Code><Message>injected</Message></Error>")
	}
}

// elsewhere is a fault: a proxy in front answers that there is no such page, and knows of no store.
func elsewhere(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
	http.Error(w, "404 page not found", http.StatusNotFound)
}

// loseAnswer is a fault: the server did it, and nobody heard.
func loseAnswer(w http.ResponseWriter, r *http.Request, next http.Handler) {
	next.ServeHTTP(discard{http.Header{}}, r)
	panic(http.ErrAbortHandler)
}

type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

// cutRequest is a fault: the connection breaks in the middle of the upload.
func cutRequest(w http.ResponseWriter, r *http.Request, _ http.Handler) {
	io.CopyN(io.Discard, r.Body, r.ContentLength/2)
	panic(http.ErrAbortHandler)
}

// spoilRequest is a fault: a bit changes on the way.
func spoilRequest(w http.ResponseWriter, r *http.Request, next http.Handler) {
	body, err := io.ReadAll(r.Body)
	if err != nil || len(body) == 0 {
		panic(http.ErrAbortHandler)
	}
	body[len(body)/2] ^= 1
	r.Body = io.NopCloser(bytes.NewReader(body))
	next.ServeHTTP(w, r)
}

// cutAnswer is a fault: the connection breaks in the middle of the download.
func cutAnswer(w http.ResponseWriter, r *http.Request, next http.Handler) {
	next.ServeHTTP(&cutWriter{ResponseWriter: w}, r)
}

type cutWriter struct {
	http.ResponseWriter
	written int64
}

func (c *cutWriter) Write(p []byte) (int, error) {
	if c.written > 100_000 {
		panic(http.ErrAbortHandler)
	}
	n, err := c.ResponseWriter.Write(p[:min(len(p), 50_000)])
	c.written += int64(n)
	if n < len(p) && err == nil {
		m, err := c.Write(p[n:])
		return n + m, err
	}
	return n, err
}

// hang is a fault: the server never answers.
func hang(w http.ResponseWriter, r *http.Request, _ http.Handler) {
	io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

// spoil makes the next times requests of the kind is go wrong.
func spoil(b *blobtest.Bucket, is func(*http.Request) bool, times int64, f fault) {
	var left atomic.Int64
	left.Store(times)
	b.Through(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if is(r) && left.Add(-1) >= 0 {
				f(w, r, next)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
}

const forever = 1 << 40

// checkNoParts checks that no unfinished upload is left to be paid for.
func checkNoParts(t *testing.T, b *blobtest.Bucket) {
	t.Helper()
	if ids := unfinished(t, b); len(ids) > 0 {
		t.Errorf("unfinished uploads left: %v", ids)
	}
}

func unfinished(t *testing.T, b *blobtest.Bucket) []string {
	t.Helper()
	core, bucket := client(t, b)
	list, err := core.ListMultipartUploads(t.Context(), bucket, "", "", "", "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, u := range list.Uploads {
		ids = append(ids, u.UploadID)
	}
	return ids
}

// client returns a client of its own for what a Store does not do.
func client(t *testing.T, b *blobtest.Bucket) (*minio.Core, string) {
	t.Helper()
	u, err := url.Parse(b.URL)
	if err != nil {
		t.Fatal(err)
	}
	core, err := minio.NewCore(strings.TrimPrefix(u.Query().Get("endpoint"), "http://"), &minio.Options{
		Creds:  credentials.NewStaticV4(blobtest.AccessKey, blobtest.SecretKey, ""),
		Region: "us-east-1",
	})
	if err != nil {
		t.Fatal(err)
	}
	return core, u.Host
}

// writeObject puts bytes of somebody else under a digest.
func writeObject(t *testing.T, b *blobtest.Bucket, digest string, content []byte) {
	path := b.Path(digest)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Error(err)
	}
}

// IM-10: what may pass is waited out, and the blob is there, whole, once.
func testS3Faults(t *testing.T, server *blobtest.S3Server) {
	small, big := blobtest.Bytes(1, 100_000), blobtest.Bytes(2, bigBlob)
	b := server.NewBucket(t)
	store := openURL(t, b.URL)
	first := func(content []byte) fault { // somebody is faster
		return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			writeObject(t, b, filepath.Base(r.URL.Path), content)
			next.ServeHTTP(w, r)
		}
	}
	tests := []struct {
		name    string
		is      func(*http.Request) bool
		times   int64
		fault   fault
		content []byte
	}{
		{"412, and nothing there", isPut, 1, answer(412, "PreconditionFailed"), small},
		{"somebody faster", isPut, 1, first(small), small},
		{"somebody faster with wrong bytes", isPut, 1, first([]byte("wrong")), small},
		{"409", isPut, 2, answer(409, "ConditionalRequestConflict"), small},
		{"500", isPut, 2, answer(500, "InternalError"), small},
		{"503", isPut, 3, answer(503, "SlowDown"), small},
		{"200 with an error", isPut, 1, answer(200, "InternalError"), small},
		{"answer lost", isPut, 1, loseAnswer, small},
		{"upload cut", isPut, 2, cutRequest, small},
		{"upload spoiled", isPut, 1, spoilRequest, small},
		{"500 to HEAD", isHead, 2, answer(500, "InternalError"), small},
		{"503 to anything", func(*http.Request) bool { return true }, 4, answer(503, "SlowDown"), small},
		{"part: 500", isPart, 2, answer(500, "InternalError"), big},
		{"part: cut", isPart, 2, cutRequest, big},
		{"part: spoiled", isPart, 1, spoilRequest, big},
		{"part: answer lost", isPart, 1, loseAnswer, big},
		{"part: upload lost", isPart, 1, answer(404, "NoSuchUpload"), big},
		{"complete: 412, and nothing there", isComplete, 1, answer(412, "PreconditionFailed"), big},
		{"complete: somebody faster", isComplete, 1, first(big), big},
		{"complete: 409", isComplete, 1, answer(409, "ConditionalRequestConflict"), big},
		{"complete: 503", isComplete, 1, answer(503, "SlowDown"), big},
		{"complete: 200 with an error", isComplete, 1, answer(200, "InternalError"), big},
		{"complete: answer lost", isComplete, 1, loseAnswer, big},
	}
	for _, tt := range tests {
		digest := blobtest.Digest(tt.content)
		spoil(b, tt.is, tt.times, tt.fault)
		if err := store.Put(t.Context(), digest, blobtest.File(t, tt.content)); err != nil {
			t.Errorf("%s: Put: %v", tt.name, err)
		}
		b.Through(nil)
		if err := blob.Verify(t.Context(), store, digest); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		checkNoParts(t, b)
		if err := store.Delete(t.Context(), digest); err != nil {
			t.Fatal(err)
		}
	}
}

// What does not pass ends, with nothing stored and no part left.
func testS3Refusals(t *testing.T, server *blobtest.S3Server) {
	small, big := blobtest.Bytes(1, 100_000), blobtest.Bytes(2, bigBlob)
	tests := []struct {
		name    string
		is      func(*http.Request) bool
		fault   fault
		content []byte
		want    string
	}{
		{"forbidden", isPut, answer(403, "AccessDenied"), small, "storage unavailable"},
		{"expired", isPut, answer(400, "ExpiredToken"), small, "storage unavailable"},
		{"no bucket", isPut, answer(404, "NoSuchBucket"), small, "storage unavailable"},
		{"invalid", isPut, answer(400, "InvalidRequest"), small, "injected"},
		{"no space", isPut, answer(507, "XMinioStorageFull"), small, "storage full"},
		{"no quota", isPut, answer(403, "QuotaExceeded"), small, "storage full"},
		{"down", isPut, answer(503, "SlowDown"), small, "storage unavailable"},
		{"never stored", isPut, answer(200, "InternalError"), small, "storage unavailable"},
		{"part down", isPart, answer(503, "SlowDown"), big, "storage unavailable"},
		{"complete down", isComplete, answer(503, "SlowDown"), big, "storage unavailable"},
		{"part forbidden", isPart, answer(403, "AccessDenied"), big, "storage unavailable"},
		{"complete forbidden", isComplete, answer(403, "AccessDenied"), big, "storage unavailable"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := server.NewBucket(t)
			store := openURL(t, b.URL)
			spoil(b, tt.is, forever, tt.fault)
			err := store.Put(t.Context(), blobtest.Digest(tt.content), blobtest.File(t, tt.content))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Put: err = %v, want %s", err, tt.want)
			}
			b.Through(nil)
			if infos := blobtest.List(t, store); len(infos) != 0 {
				t.Errorf("stored %v", infos)
			}
			checkNoParts(t, b)
		})
	}
}

func testS3Reading(t *testing.T, server *blobtest.S3Server) {
	content := blobtest.Bytes(1, 5_000_000)
	tests := []struct {
		name  string
		is    func(*http.Request) bool
		times int64
		fault fault
	}{
		{"500", isGet, 2, answer(500, "InternalError")},
		{"503", isGet, 2, answer(503, "SlowDown")},
		{"short read", isGet, 10, cutAnswer},
		{"200 with an error", isGet, 2, answer(200, "InternalError")},
		{"silence", isGet, 1, hang},
		{"silence at HEAD", isHead, 1, hang},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := server.NewBucket(t)
			digest := blobtest.Put(t, openURL(t, b.URL), content)
			store := openURL(t, b.URL+"&timeout=300ms")
			spoil(b, tt.is, tt.times, tt.fault)
			if got := blobtest.Read(t, store, digest); !bytes.Equal(got, content) {
				t.Errorf("read %d other bytes", len(got))
			}
			spoil(b, tt.is, tt.times, tt.fault)
			r, err := store.Open(t.Context(), digest)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			got := make([]byte, 1_000_000)
			if n, err := r.ReadAt(got, 2_000_000); err != nil || !bytes.Equal(got, content[2_000_000:3_000_000]) {
				t.Errorf("ReadAt = %d, %v", n, err)
			}
		})
	}
}

// A blob that can't be read now is an error, and not a wrong blob.
func testS3ReadRefused(t *testing.T, server *blobtest.S3Server) {
	tests := []struct {
		name  string
		fault fault
		want  error
	}{
		{"down", answer(503, "SlowDown"), blob.ErrUnavailable},
		{"silence", hang, blob.ErrUnavailable},
		{"never the range", answer(200, "InternalError"), blob.ErrUnavailable},
		{"gone since it was opened", answer(404, "NoSuchKey"), fs.ErrNotExist},
		{"forbidden", answer(403, "AccessDenied"), blob.ErrUnavailable},
		{"expired", answer(400, "ExpiredToken"), blob.ErrUnavailable},
		{"invalid", answer(400, "InvalidRequest"), nil},
		{"too many requests", answer(429, "TooManyRequests"), blob.ErrUnavailable},
		{"a proxy's 404", elsewhere, blob.ErrUnavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := server.NewBucket(t)
			content := blobtest.Bytes(1, 100_000)
			digest := blobtest.Put(t, openURL(t, b.URL), content)
			store := openURL(t, b.URL+"&timeout=300ms")
			spoil(b, isGet, forever, tt.fault)
			err := blob.Verify(t.Context(), store, digest)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || errors.Is(err, blob.ErrMismatch) {
				t.Errorf("Verify: err = %v, want %v", err, tt.want)
			}
			store.Quarantine(t.Context(), digest)
			b.Through(nil)
			if err := blob.Verify(t.Context(), store, digest); err != nil {
				t.Errorf("after Quarantine: %v", err)
			}
		})
	}
}

// What HEAD answers has no words: one who is not let in is no proof that a blob is not there.
func testS3NotLetIn(t *testing.T, server *blobtest.S3Server) {
	b := server.NewBucket(t)
	store := openURL(t, b.URL)
	digest := blobtest.Put(t, store, blobtest.Bytes(1, 1000))
	for name, f := range map[string]fault{
		"unknown key": answer(404, "XAdminUserNotFound"), "no bucket": answer(404, "NoSuchBucket"), "expired": answer(400, "ExpiredToken"),
		"wrong key": answer(403, "SignatureDoesNotMatch"), "a proxy's 404": elsewhere, "too many requests": answer(429, "TooManyRequests"),
	} {
		spoil(b, func(*http.Request) bool { return true }, forever, f)
		if err := blob.Verify(t.Context(), store, digest); !errors.Is(err, blob.ErrUnavailable) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: Verify: %v, want ErrUnavailable", name, err)
		}
		if err := store.Quarantine(t.Context(), digest); !errors.Is(err, blob.ErrUnavailable) {
			t.Errorf("%s: Quarantine: %v, want ErrUnavailable", name, err)
		}
		if err := store.Put(t.Context(), digest, blobtest.File(t, blobtest.Bytes(1, 1000))); !errors.Is(err, blob.ErrUnavailable) {
			t.Errorf("%s: Put: %v, want ErrUnavailable", name, err)
		}
		b.Through(nil)
	}
	if _, err := store.Stat(t.Context(), blobtest.Digest([]byte("nothing"))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
	if err := blob.Verify(t.Context(), store, digest); err != nil {
		t.Error(err)
	}
}

// A server that answers with something else than the range is not believed.
// Who waits for a server that gives nothing more gives up in a time that no retry makes longer.
func testS3Frozen(t *testing.T, server *blobtest.S3Server) {
	b := server.NewBucket(t)
	s := openURL(t, b.URL)
	content := bytes.Repeat([]byte("0123456789"), 1000)
	digest := blobtest.Put(t, s, content)
	const patience = 500 * time.Millisecond
	c := blob.Check(s, patience)
	for range 2 {
		if got, err := blob.ReadAll(t.Context(), c, digest); err != nil || !bytes.Equal(got, content) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	}
	for name, freeze := range map[string]fault{
		"at once": hang,
		"half-way": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			whole := httptest.NewRecorder()
			next.ServeHTTP(whole, r)
			maps.Copy(w.Header(), whole.Header())
			w.WriteHeader(whole.Code)
			_, _ = w.Write(whole.Body.Bytes()[:whole.Body.Len()/2])
			_ = http.NewResponseController(w).Flush()
			hang(w, r, next)
		},
	} {
		opened, err := c.Open(t.Context(), digest)
		if err != nil {
			t.Fatal(err)
		}
		spoil(b, isGet, forever, freeze)
		for how, read := range map[string]func() error{
			"ReadAt": func() error { _, err := opened.ReadAt(make([]byte, 8000), 10); return err },
			"Read":   func() error { _, err := io.Copy(io.Discard, opened); return err },
		} {
			began := time.Now()
			if err := read(); !errors.Is(err, blob.ErrUnavailable) || time.Since(began) > 20*patience {
				t.Errorf("%s, %s: %v after %v, want ErrUnavailable soon", name, how, err, time.Since(began))
			}
		}
		opened.Close()
		b.Through(nil)
	}
}

func testS3Range(t *testing.T, server *blobtest.S3Server) {
	b := server.NewBucket(t)
	store := openURL(t, b.URL)
	content := blobtest.Bytes(1, 3_000_000)
	digest := blobtest.Put(t, store, content)
	for name, rangeHeader := range map[string]string{"whole": "", "other": "bytes=1-1000000"} {
		r, err := store.Open(t.Context(), digest)
		if err != nil {
			t.Fatal(err)
		}
		spoil(b, isGet, 1, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			req := &http.Request{Method: "GET", Header: http.Header{}}
			if rangeHeader != "" {
				req.Header.Set("Range", rangeHeader)
			}
			http.ServeContent(w, req, "", time.Now(), bytes.NewReader(content))
		})
		got := make([]byte, 1_000_000)
		if n, err := r.ReadAt(got, 2_000_000); err != nil || !bytes.Equal(got, content[2_000_000:]) {
			t.Errorf("%s: ReadAt = %d, %v, want the right bytes from a second attempt", name, n, err)
		}
		r.Close()
	}
}

func testS3Cancel(t *testing.T, server *blobtest.S3Server) {
	b := server.NewBucket(t)
	store := openURL(t, b.URL)
	content := blobtest.Bytes(1, bigBlob)
	ctx, cancel := context.WithCancel(t.Context())
	spoil(b, isPart, forever, func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		cancel()
		hang(w, r, nil)
	})
	start := time.Now()
	if err := store.Put(ctx, blobtest.Digest(content), blobtest.File(t, content)); !errors.Is(err, context.Canceled) {
		t.Errorf("Put: err = %v, want context.Canceled", err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("Put took %v after it was cancelled", took)
	}
	checkNoParts(t, b)
}

func testS3Sweep(t *testing.T, server *blobtest.S3Server) {
	b := server.NewBucket(t)
	store := openURL(t, b.URL)
	core, bucket := client(t, b)
	digest := blobtest.Digest([]byte("lost"))
	// A process dies in the middle of an upload.
	if _, err := core.NewMultipartUpload(t.Context(), bucket, "pre/fix/blobs/"+digest[:2]+"/"+digest, minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := store.Sweep(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	if ids := unfinished(t, b); len(ids) != 1 {
		t.Errorf("unfinished uploads = %v, want the young one left alone", ids)
	}
	if err := store.Sweep(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	checkNoParts(t, b)
}

// Every write of a blob is create-only, and short reads ask for little.
func testS3Requests(t *testing.T, server *blobtest.S3Server) {
	b := server.NewBucket(t)
	var writes, conditional, asked atomic.Int64
	b.Through(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if isPut(r) || isComplete(r) {
				writes.Add(1)
				if r.Header.Get("If-None-Match") == "*" {
					conditional.Add(1)
				}
			}
			if isGet(r) {
				asked.Add(1)
			}
			next.ServeHTTP(w, r)
		})
	})
	store := openURL(t, b.URL)
	big := blobtest.Put(t, store, blobtest.Bytes(1, bigBlob))
	blobtest.Put(t, store, []byte("small"))
	blobtest.Put(t, store, []byte("small"))
	if writes.Load() != 2 || conditional.Load() != 2 {
		t.Errorf("%d writes, %d of them create-only, want 2 and 2", writes.Load(), conditional.Load())
	}
	asked.Store(0)
	blobtest.Read(t, store, big)
	if n := asked.Load(); n > 4 { // 1 + 2 + 4 + 4 MiB
		t.Errorf("%d requests to read %d bytes, want 4", n, bigBlob)
	}
}

func TestS3Unreachable(t *testing.T) {
	t.Parallel()
	store := openURL(t, "s3://bucket?timeout=100ms&endpoint=http://127.0.0.1:1")
	if _, err := store.Stat(t.Context(), blobtest.Digest(nil)); !errors.Is(err, blob.ErrUnavailable) {
		t.Errorf("Stat: err = %v, want ErrUnavailable", err)
	}
	for _, err := range store.List(t.Context()) {
		if !errors.Is(err, blob.ErrUnavailable) {
			t.Errorf("List: err = %v, want ErrUnavailable", err)
		}
	}
}
