// Package queuetest gives tests a Redis database of their own.
package queuetest

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
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/francescobianco/packbase/storage/queue"
)

// New returns a queue with nothing in it, for this test alone. See NewURL.
func New(t testing.TB) *queue.Queue {
	t.Helper()
	return Open(t, NewURL(t))
}

// Open opens the queue at a URL until the test ends.
func Open(t testing.TB, rawURL string) *queue.Queue {
	t.Helper()
	q, err := queue.Open(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.Close() })
	return q
}

// NewURL returns the URL of an empty Redis database for this test alone. It
// skips the test when PACKBASE_TEST_REDIS_URL is not set, and fails it then
// if CI is.
//
// The queue's keys are the same in each database, so tests that run at once,
// also those of other packages, must not share one: a locked file stands for
// each. The lock goes with the process, however that ends.
func NewURL(t testing.TB) string {
	t.Helper()
	base := os.Getenv("PACKBASE_TEST_REDIS_URL")
	switch {
	case base == "" && os.Getenv("CI") != "":
		t.Fatal("PACKBASE_TEST_REDIS_URL is not set; run make test")
	case base == "":
		t.Skip("PACKBASE_TEST_REDIS_URL is not set; run make test")
	}
	claimed := withDatabase(t, base, claim(t, base))
	client := Client(t, claimed)
	if err := client.FlushDB(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	return claimed
}

// Client returns a client of the Redis at a URL, to look at it or to harm it.
func Client(t testing.TB, rawURL string) *redis.Client {
	t.Helper()
	opt, err := redis.ParseURL(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(opt)
	t.Cleanup(func() { client.Close() })
	if err := client.Ping(context.Background()).Err(); err != nil {
		t.Fatal(err)
	}
	return client
}

// claim returns the number of a database that no other test has.
func claim(t testing.TB, base string) int {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		// Redis has 16 databases unless told otherwise; 0 is left to others.
		for n := 1; n < 16; n++ {
			if lock(t, fmt.Sprintf("%d-%x-%d", os.Getuid(), crc32.ChecksumIEEE([]byte(base)), n)) {
				return n
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("all Redis databases are in use by other tests")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// lock locks a file until the test ends, and reports whether it could.
func lock(t testing.TB, name string) bool {
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
