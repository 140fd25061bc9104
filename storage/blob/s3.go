package blob

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// An S3 is a Store in a bucket of a server that speaks the S3 protocol. See
// Store for the contract.
//
// Uploads are create-only (If-None-Match: *, which a server that does not know
// it may ignore: under a digest it would write the same bytes again), carry the
// SHA-256 of what they send, and are looked at afterwards. An object's ETag is
// not a digest and is never used as one.
//
// A lifecycle rule of the bucket must not expire objects below the prefix.
type S3 struct {
	core     *minio.Core
	bucket   string
	prefix   string // "" or ends in a slash
	partSize int64  // bytes; a greater blob is uploaded in parts

	patience time.Duration // how long who reads waits for another byte, all attempts together; 0 for as long as they take
}

// OpenS3 returns the store that rawURL names, without asking the server:
//
//	s3://bucket/prefix?endpoint=https://host:port&region=eu-west-1
//
//	endpoint   where the server is; default Amazon's. Without a scheme, https.
//	           Other endpoints than Amazon's get the bucket in the path
//	region     default us-east-1
//	part_size  bytes, default 67108864, at least 5242880: greater blobs are
//	           uploaded in parts of this size
//	timeout    default 1m: the longest silence on a connection, as 30s
//
// Credentials are never part of the URL. They come from AWS_ACCESS_KEY_ID,
// AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, else from the profile AWS_PROFILE
// of the file AWS_SHARED_CREDENTIALS_FILE (~/.aws/credentials), else from the
// role that the machine or the container has.
func OpenS3(rawURL string) (*S3, error) {
	s, err := openS3(rawURL)
	if err != nil {
		return nil, fmt.Errorf("open blob store: %w", err)
	}
	return s, nil
}

func openS3(rawURL string) (*S3, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, errors.New("malformed s3 URL") // err would print it
	}
	if u.User != nil {
		return nil, errors.New("s3 URL: credentials do not belong in it; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	}
	if u.Host == "" {
		return nil, errors.New("s3 URL: no bucket")
	}
	s := &S3{bucket: u.Host, partSize: 64 << 20}
	if prefix := strings.Trim(u.Path, "/"); prefix != "" {
		s.prefix = prefix + "/"
	}

	endpoint, region, timeout := "https://s3.amazonaws.com", "us-east-1", time.Minute
	for name, values := range u.Query() {
		value := values[len(values)-1]
		switch name {
		case "endpoint":
			endpoint = value
			if !strings.Contains(value, "://") {
				endpoint = "https://" + value
			}
		case "region":
			region = value
		case "part_size":
			s.partSize, err = strconv.ParseInt(value, 10, 64)
			if err != nil || s.partSize < 5<<20 {
				return nil, fmt.Errorf("s3 URL: part_size %q: want a number of bytes, at least %d", value, 5<<20)
			}
		case "timeout":
			timeout, err = time.ParseDuration(value)
			if err != nil || timeout <= 0 {
				return nil, fmt.Errorf("s3 URL: timeout %q: want a duration such as 1m", value)
			}
		default:
			return nil, fmt.Errorf("s3 URL: unknown parameter %q", name)
		}
	}
	e, err := url.Parse(endpoint)
	if err != nil || e.Host == "" || e.User != nil || strings.Trim(e.Path, "/") != "" || e.Scheme != "http" && e.Scheme != "https" {
		return nil, errors.New("s3 URL: endpoint: want http://host:port or https://host:port")
	}
	s.core, err = minio.NewCore(e.Host, &minio.Options{
		Secure:    e.Scheme == "https",
		Region:    region,
		Transport: transport(timeout),
		Creds: credentials.NewChainCredentials([]credentials.Provider{
			&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{},
		}),
		MaxRetries: attempts,
	})
	if err != nil {
		return nil, fmt.Errorf("s3 URL: %w", err)
	}
	return s, nil
}

// transport returns an HTTP transport that gives up on a connection on which
// nothing moved for the time silence. There is no limit on the whole of a
// request, because there is none on the size of a blob.
func transport(silence time.Duration) *http.Transport {
	dialer := net.Dialer{Timeout: min(silence, 10*time.Second)}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return silenceConn{conn, silence}, nil
		},
		TLSHandshakeTimeout:   min(silence, 10*time.Second),
		ResponseHeaderTimeout: silence,
		IdleConnTimeout:       silence,
		MaxIdleConnsPerHost:   64,
		DisableCompression:    true,
	}
}

// A silenceConn fails reads and writes when neither moved a byte for the time
// silence.
type silenceConn struct {
	net.Conn
	silence time.Duration
}

func (c silenceConn) Read(p []byte) (int, error) {
	c.SetDeadline(time.Now().Add(c.silence))
	return c.Conn.Read(p)
}

func (c silenceConn) Write(p []byte) (int, error) {
	c.SetDeadline(time.Now().Add(c.silence))
	return c.Conn.Write(p)
}

func (s *S3) key(digest string) string { return s.prefix + blobPath(digest) }

// Put implements Store.
func (s *S3) Put(ctx context.Context, digest string, src *os.File) error {
	bytes, err := checkSource(ctx, digest, src)
	if err != nil {
		return fmt.Errorf("put blob: %w", err)
	}
	if err := s.put(ctx, digest, bytes); err != nil {
		return fmt.Errorf("put blob: %w", s3Error(err))
	}
	return nil
}

// put looks, and uploads what is not there, until it sees the right thing
// there. So an answer that was lost or wrong, and somebody else who was faster,
// need no care of their own.
func (s *S3) put(ctx context.Context, digest string, bytes *io.SectionReader) error {
	uploaded, uploadErr := false, error(nil)
	for attempt := 0; ; attempt++ {
		info, err := s.inspect(ctx, digest, bytes.Size(), uploaded)
		if err == nil && (uploaded || time.Since(info.ModTime) < Fresh) {
			return nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if refused(uploadErr) {
			return uploadErr
		}
		if attempt == attempts {
			return fmt.Errorf("%w: %d uploads, and no blob there; error of the last one: %v", ErrUnavailable, attempts, uploadErr)
		}
		if attempt > 0 {
			if err := pause(ctx, attempt); err != nil {
				return err
			}
		}
		var opts minio.PutObjectOptions
		if err != nil {
			opts.SetMatchETagExcept("*")
		} // else it is there, but old: a copy onto itself would renew it on some servers only
		uploadErr = s.upload(ctx, digest, bytes, opts)
		uploaded = uploadErr == nil
	}
}

// inspect returns the blob if it is there and in order. If its bytes are wrong
// they go to quarantine, and it returns fs.ErrNotExist as if there were none.
func (s *S3) inspect(ctx context.Context, digest string, size int64, uploaded bool) (Info, error) {
	info, err := s.head(ctx, digest)
	if answered(err, http.StatusNotFound) {
		return Info{}, fs.ErrNotExist // and whether we are let in the upload will tell
	}
	if err != nil {
		info, err = s.Stat(ctx, digest)
	}
	if err != nil {
		return Info{}, err
	}
	if uploaded && info.Size == size {
		return info, nil // the server has checked the bytes
	}
	err = Verify(ctx, s, digest)
	if errors.Is(err, ErrMismatch) {
		if err := s.Quarantine(ctx, digest); err != nil {
			return Info{}, err
		}
		return Info{}, fs.ErrNotExist
	}
	return info, err
}

// upload sends the bytes once, as opts says. The server checks them against
// their SHA-256 before it makes the object.
func (s *S3) upload(ctx context.Context, digest string, bytes *io.SectionReader, opts minio.PutObjectOptions) error {
	if bytes.Size() > s.partSize {
		return s.uploadParts(ctx, digest, bytes, opts)
	}
	sum, err := hex.DecodeString(digest)
	if err != nil {
		return err
	}
	opts.DisableContentSha256 = true // no signature for each chunk: the whole is signed
	opts.UserMetadata = map[string]string{"x-amz-checksum-sha256": base64.StdEncoding.EncodeToString(sum)}
	_, err = s.core.PutObject(ctx, s.bucket, s.key(digest), section(bytes, 0, bytes.Size()), bytes.Size(), "", digest, opts)
	return err
}

// uploadParts is upload for a blob greater than one part.
func (s *S3) uploadParts(ctx context.Context, digest string, bytes *io.SectionReader, opts minio.PutObjectOptions) (err error) {
	key := s.key(digest)
	id, err := s.core.NewMultipartUpload(ctx, s.bucket, key, minio.PutObjectOptions{})
	if err != nil {
		return s3Error(err)
	}
	defer func() {
		if err == nil {
			return
		}
		// Parts cost space until they are removed; what fails here is swept.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		s.core.AbortMultipartUpload(ctx, s.bucket, key, id)
	}()

	whole := sha256.New()
	var parts []minio.CompletePart
	for off := int64(0); off < bytes.Size(); off += s.partSize {
		size := min(s.partSize, bytes.Size()-off)
		sum := sha256.New()
		if err := copyTo(ctx, io.MultiWriter(sum, whole), section(bytes, off, size)); err != nil {
			return err
		}
		part, err := s.uploadPart(ctx, key, id, len(parts)+1, io.NewSectionReader(bytes, off, size), hex.EncodeToString(sum.Sum(nil)))
		if err != nil {
			return err
		}
		parts = append(parts, minio.CompletePart{PartNumber: part.PartNumber, ETag: part.ETag})
	}
	// The server has checked each part; this checks that they are the blob.
	if err := compare(whole.Sum(nil), digest); err != nil {
		return err
	}
	_, err = s.core.CompleteMultipartUpload(ctx, s.bucket, key, id, parts, opts)
	return s3Error(err)
}

// uploadPart sends a part until the server has it.
func (s *S3) uploadPart(ctx context.Context, key, id string, number int, bytes *io.SectionReader, sum string) (minio.ObjectPart, error) {
	for attempt := 0; ; attempt++ {
		part, err := s.core.PutObjectPart(ctx, s.bucket, key, id, number, section(bytes, 0, bytes.Size()), bytes.Size(),
			minio.PutObjectPartOptions{Sha256Hex: sum, DisableContentSha256: true})
		if err == nil || refused(err) || noSuchUpload(err) || attempt == attempts {
			return part, s3Error(err)
		}
		if err := pause(ctx, attempt); err != nil {
			return part, err
		}
	}
}

// section returns a new reader of a part of bytes. It cannot seek, so that minio
// does not repeat the request by itself: net/http may still be reading from the
// last attempt.
func section(bytes io.ReaderAt, off, size int64) io.Reader {
	return struct{ io.Reader }{io.NewSectionReader(bytes, off, size)}
}

// Open implements Store.
func (s *S3) Open(ctx context.Context, digest string) (Blob, error) {
	info, err := s.Stat(ctx, digest)
	if err != nil {
		return nil, fmt.Errorf("open blob: %w", err)
	}
	b := &s3Blob{store: s, info: info}
	b.ctx, b.end = context.WithCancelCause(ctx)
	return b, nil
}

// Stat implements Store.
func (s *S3) Stat(ctx context.Context, digest string) (Info, error) {
	if err := checkDigest(digest); err != nil {
		return Info{}, fmt.Errorf("stat blob: %w", err)
	}
	info, err := s.head(ctx, digest)
	if answered(err, http.StatusNotFound, http.StatusBadRequest) {
		// Without words that may be about the bucket, or about who asks.
		body, _, _, said := s.core.GetObject(ctx, s.bucket, s.key(digest), minio.GetObjectOptions{})
		if said == nil {
			body.Close()
		}
		err = cmp.Or(said, err)
	}
	if err != nil {
		return Info{}, fmt.Errorf("stat blob: %w", s3Error(err))
	}
	return info, nil
}

func (s *S3) head(ctx context.Context, digest string) (Info, error) {
	o, err := s.core.StatObject(ctx, s.bucket, s.key(digest), minio.StatObjectOptions{})
	return Info{digest, o.Size, o.LastModified}, err
}

// List implements Store.
func (s *S3) List(ctx context.Context) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		objects := s.core.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix + "blobs/", Recursive: true})
		for o := range objects {
			if o.Err != nil {
				yield(Info{}, fmt.Errorf("list blobs: %w", s3Error(o.Err)))
				return
			}
			digest := path.Base(o.Key)
			if checkDigest(digest) != nil || o.Key != s.key(digest) {
				continue
			}
			if !yield(Info{digest, o.Size, o.LastModified}, nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil { // minio just stops
			yield(Info{}, fmt.Errorf("list blobs: %w", err))
		}
	}
}

// Delete implements Store.
func (s *S3) Delete(ctx context.Context, digest string) error {
	if err := checkDigest(digest); err != nil {
		return fmt.Errorf("delete blob: %w", err)
	}
	err := s.core.RemoveObject(ctx, s.bucket, s.key(digest), minio.RemoveObjectOptions{})
	if err != nil {
		return fmt.Errorf("delete blob: %w", s3Error(err))
	}
	return nil
}

// Quarantine implements Store. S3 has no locks: in the moment between the copy
// and the removal, a blob that was repaired would be taken for the wrong one.
func (s *S3) Quarantine(ctx context.Context, digest string) error {
	err := Verify(ctx, s, digest)
	if errors.Is(err, ErrMismatch) {
		err = s.move(ctx, s.key(digest), s.prefix+quarantinePath(digest))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("quarantine blob: %w", err)
	}
	return nil
}

// Restore implements Store.
func (s *S3) Restore(ctx context.Context, digest string) error {
	err := checkDigest(digest)
	if err == nil {
		err = s.restore(ctx, digest)
	}
	if err != nil {
		return fmt.Errorf("restore blob: %w", err)
	}
	return nil
}

func (s *S3) restore(ctx context.Context, digest string) error {
	for o := range s.core.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix + "quarantine/" + digest + ".", Recursive: true}) {
		if o.Err != nil {
			return s3Error(o.Err)
		}
		body, _, _, err := s.core.GetObject(ctx, s.bucket, o.Key, minio.GetObjectOptions{})
		if err != nil {
			return s3Error(err)
		}
		err = match(ctx, io.LimitReader(body, o.Size), digest)
		body.Close()
		if err == nil {
			return s.move(ctx, o.Key, s.key(digest))
		}
	}
	return cmp.Or(ctx.Err(), fs.ErrNotExist)
}

func (s *S3) move(ctx context.Context, from, to string) error {
	_, err := s.core.Client.CopyObject(ctx,
		minio.CopyDestOptions{Bucket: s.bucket, Object: to},
		minio.CopySrcOptions{Bucket: s.bucket, Object: from})
	if err != nil {
		return s3Error(err)
	}
	return s3Error(s.core.RemoveObject(ctx, s.bucket, from, minio.RemoveObjectOptions{}))
}

// Sweep implements Store: it aborts uploads that began longer than age ago.
func (s *S3) Sweep(ctx context.Context, age time.Duration) error {
	var key, id string // where the next page begins
	for {
		page, err := s.core.ListMultipartUploads(ctx, s.bucket, s.prefix+"blobs/", key, id, "", 1000)
		if err != nil {
			return fmt.Errorf("sweep uploads: %w", s3Error(err))
		}
		for _, u := range page.Uploads {
			if time.Since(u.Initiated) < age {
				continue
			}
			err := s.core.AbortMultipartUpload(ctx, s.bucket, u.Key, u.UploadID)
			if err != nil && !noSuchUpload(err) {
				return fmt.Errorf("sweep uploads: %w", s3Error(err))
			}
		}
		if !page.IsTruncated {
			return nil
		}
		key, id = page.NextKeyMarker, page.NextUploadIDMarker
	}
}

// Free implements Store.
func (s *S3) Free(context.Context) (int64, error) { return -1, nil }

// pause waits before the next attempt, twice as long each time, and at random,
// so that many who failed together do not come back together.
func pause(ctx context.Context, attempt int) error {
	longest := minio.DefaultRetryUnit << attempt
	timer := time.NewTimer(longest/2 + rand.N(longest/2))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// refused reports whether there is no use in asking again: the server has said
// no, or, with ErrUnavailable, it has been asked often enough.
func refused(err error) bool {
	if errors.Is(err, ErrMismatch) || errors.Is(err, ErrUnavailable) || errors.Is(err, context.Canceled) {
		return true
	}
	var e minio.ErrorResponse
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code {
	case "BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody", "RequestTimeout", "NoSuchUpload":
		return false // the bytes were harmed or lost on the way
	}
	switch e.StatusCode {
	case http.StatusPreconditionFailed, http.StatusConflict:
		return false // somebody was faster, or is at it: look again
	}
	if passing(e) {
		return false
	}
	return full(e) || e.StatusCode >= 400 && e.StatusCode < 500
}

func noSuchUpload(err error) bool {
	var e minio.ErrorResponse
	return errors.As(err, &e) && e.Code == "NoSuchUpload"
}

// full reports whether e says that there is no space; each server has its own
// words for it.
func full(e minio.ErrorResponse) bool {
	switch e.Code {
	case "QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded":
		return true
	}
	return e.StatusCode == http.StatusInsufficientStorage
}

// answered reports whether the server answered with one of the statuses.
func answered(err error, statuses ...int) bool {
	var e minio.ErrorResponse
	return errors.As(err, &e) && slices.Contains(statuses, e.StatusCode)
}

// passing reports whether e says to ask again later.
func passing(e minio.ErrorResponse) bool {
	return e.StatusCode == http.StatusRequestTimeout || e.StatusCode == http.StatusTooManyRequests
}

// wordless reports whether e is a 404 without a store's words, as a proxy in front gives it that does not find the store. Those
// that e has are minio's.
func wordless(e minio.ErrorResponse) bool {
	return e.StatusCode == http.StatusNotFound && e.XMLName.Local == ""
}

// denied reports whether e says that we are not let in, or not there, whatever there is of the blob.
func denied(e minio.ErrorResponse) bool {
	switch e.Code {
	case "ExpiredToken", "InvalidToken", "TokenRefreshRequired", "NoSuchBucket", "XAdminUserNotFound":
		return true
	}
	return e.StatusCode == http.StatusUnauthorized || e.StatusCode == http.StatusForbidden
}

// s3Error adds what callers may test for to what the server or net/http says.
func s3Error(err error) error {
	for _, known := range []error{nil, fs.ErrNotExist, ErrMismatch, ErrFull, ErrUnavailable, context.Canceled} {
		if errors.Is(err, known) {
			return err
		}
	}
	var e minio.ErrorResponse
	switch isResponse := errors.As(err, &e); {
	case isResponse && wordless(e):
	case isResponse && e.Code == "NoSuchKey":
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	case isResponse && full(e):
		return fmt.Errorf("%w: %w", ErrFull, err)
	case isResponse && !denied(e) && !passing(e) && e.StatusCode >= 400 && e.StatusCode < 500:
		return err
	}
	// No answer in time, no answer that makes sense, too many requests, a server's own fault, or credentials that it does not take.
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}
