package blob_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/blob/blobtest"
)

func TestMain(m *testing.M) {
	if mode := os.Getenv("BLOB_TEST_CHILD"); mode != "" {
		children[mode](os.Getenv("BLOB_TEST_DIR"))
		os.Exit(0)
	}
	minio.DefaultRetryUnit = 5 * time.Millisecond // the tests of faults need not wait
	os.Setenv("AWS_ACCESS_KEY_ID", blobtest.AccessKey)
	os.Setenv("AWS_SECRET_ACCESS_KEY", blobtest.SecretKey)
	os.Exit(m.Run())
}

func TestOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tests := []struct {
		name, url, want string // want is part of the error, "" for none
	}{
		{"folder", "file://" + dir + "/a", ""},
		{"folder that looks escaped", "file://" + dir + "/100%25?x=#", ""},
		{"bucket", "s3://bucket", ""},
		{"bucket with everything", "s3://bucket/a/b/?endpoint=http://127.0.0.1:9&region=eu-west-1&part_size=5242880&timeout=30s", ""},
		{"endpoint without a scheme", "s3://bucket?endpoint=localhost:9", ""},
		{"nothing", "", "must begin with"},
		{"a path", "/srv/packbase", "must begin with"},
		{"other scheme", "gs://secret:secret@bucket", "must begin with"},
		{"no folder", "file://", "names no folder"},
		{"a file in the way", "file:///dev/null/x", "/dev/null"},
		{"no bucket", "s3:///prefix", "no bucket"},
		{"credentials", "s3://key:secret@bucket", "credentials do not belong"},
		{"unknown parameter", "s3://bucket?regoin=x", `"regoin"`},
		{"part size in words", "s3://bucket?part_size=64MiB", `part_size "64MiB"`},
		{"part size too small", "s3://bucket?part_size=1000", `part_size "1000"`},
		{"timeout without a unit", "s3://bucket?timeout=5", `timeout "5"`},
		{"endpoint of another kind", "s3://bucket?endpoint=ftp://host", "endpoint"},
		{"credentials in the endpoint", "s3://bucket?endpoint=http://key:secret@host", "endpoint"},
		{"malformed", "s3://bucket:secret%zz", "malformed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := blob.Open(tt.url)
			if tt.want == "" {
				if err != nil || s == nil {
					t.Errorf("Open = %v, %v", s, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("err = %v, want one with %s and no secret", err, tt.want)
			}
		})
	}
}
