package harness

import (
	"github.com/redis/go-redis/v9"

	"github.com/francescobianco/packbase/storage/queue/queuetest"
)

// Redis returns a client of the server's Redis, to look at it or to harm it.
func (s *Server) Redis() *redis.Client {
	s.t.Helper()
	return queuetest.Client(s.t, s.RedisURL)
}
