package harness

import (
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/francescobianco/packbase/storage/queue/queuetest"
)

// NewRedisURL returns the URL of an empty Redis database for this test alone.
func NewRedisURL(t testing.TB) string {
	t.Helper()
	return queuetest.NewURL(t)
}

// Redis returns a client of the server's Redis, to look at it or to harm it.
func (s *Server) Redis() *redis.Client {
	s.t.Helper()
	return queuetest.Client(s.t, s.RedisURL)
}
