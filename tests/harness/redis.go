package harness

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"

	"packbase/storage/storagetest"
)

// NewRedisURL returns the URL of an empty Redis database for this test alone.
//
// asynq's keys are the same in each database, so tests that run at once, also
// those of other packages, must not share one: a locked file stands for each.
// The lock goes with the process, however that ends.
func NewRedisURL(t testing.TB) string {
	t.Helper()
	base := storagetest.Env(t, "PACKBASE_TEST_REDIS_URL")
	var claimed string
	Eventually(t, "a Redis database is free", func() bool {
		// Redis has 16 databases unless told otherwise; 0 is left to others.
		for n := 1; n < 16 && claimed == ""; n++ {
			if lockRedis(t, fmt.Sprintf("%d-%x-%d", os.Getuid(), crc32.ChecksumIEEE([]byte(base)), n)) {
				claimed = withDatabase(t, base, n)
			}
		}
		return claimed != ""
	})
	opt, err := redis.ParseURL(claimed)
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(opt)
	defer client.Close()
	if err := client.FlushDB(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	return claimed
}

// lockRedis locks a file until the test ends, and reports whether it could.
func lockRedis(t testing.TB, name string) bool {
	t.Helper()
	file, err := os.OpenFile(filepath.Join(os.TempDir(), "packbase-test-redis-"+name), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		file.Close()
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return true
}

// withDatabase returns the URL with another database number.
func withDatabase(t testing.TB, base string, n int) string {
	t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(base, "unix:") {
		q := u.Query()
		q.Set("db", strconv.Itoa(n))
		u.RawQuery = q.Encode()
	} else {
		u.Path = "/" + strconv.Itoa(n)
	}
	return u.String()
}

// Redis returns a client of the server's Redis, to look at it or to harm it.
func (s *Server) Redis() *redis.Client {
	s.t.Helper()
	opt, err := redis.ParseURL(s.RedisURL)
	if err != nil {
		s.t.Fatal(err)
	}
	client := redis.NewClient(opt)
	s.t.Cleanup(func() { client.Close() })
	if err := client.Ping(context.Background()).Err(); err != nil {
		s.t.Fatal(err)
	}
	return client
}
