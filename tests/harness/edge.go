package harness

import (
	"slices"
	"strings"
	"testing"

	"github.com/francescobianco/packbase/storage/storagetest"
)

// StartEdge runs `packbase replicate` and a read-only `packbase api` that
// follow the packbase at the URL central. They have a database of their own,
// unless env names another, no Redis, and no token unless env has one.
func StartEdge(t testing.TB, central string, env ...string) *Server {
	t.Helper()
	s := newEdge(t, central, env...)
	s.Worker.Start() // it migrates the database
	s.AwaitWorker(s.Worker)
	s.API.Start()
	s.AwaitReady()
	return s
}

// newEdge is StartEdge without starting anything.
func newEdge(t testing.TB, central string, env ...string) *Server {
	t.Helper()
	s := newServer(t, slices.Concat([]string{"PACKBASE_CENTRAL=" + central, "PACKBASE_READ_ONLY=true"}, env))
	s.Token = valueOf(env, "PACKBASE_TOKEN")
	s.Env = slices.DeleteFunc(s.Env, func(e string) bool {
		return strings.HasPrefix(e, "PACKBASE_TOKEN=") || strings.HasPrefix(e, "PACKBASE_UPSTREAM_ALLOW=")
	})
	if s.Token != "" {
		s.Env = append(s.Env, "PACKBASE_TOKEN="+s.Token)
	}
	if s.DatabaseURL = valueOf(env, "PACKBASE_DATABASE_URL"); s.DatabaseURL == "" {
		s.DatabaseURL = storagetest.NewURL(t)
		s.Env = append(s.Env, "PACKBASE_DATABASE_URL="+s.DatabaseURL)
	}
	s.API = newProcess(t, s.dir, "edge-api", s.Env, "api")
	s.Worker = newProcess(t, s.dir, "edge-replicate", s.Env, "replicate")
	return s
}

// AddAPI runs one more api on the server's database and returns it as a
// server: its Worker is the same, and starting or stopping is its own.
func (s *Server) AddAPI(name string, env ...string) *Server {
	s.t.Helper()
	more := newServer(s.t, slices.Concat([]string{"PACKBASE_ROOT=" + s.Root}, env))
	more.Token, more.DatabaseURL, more.RedisURL, more.Worker = s.Token, s.DatabaseURL, s.RedisURL, s.Worker
	more.Env = slices.Concat(s.Env, []string{valueWith(more.Env, "PACKBASE_PORT")}, env)
	more.API = newProcess(s.t, s.dir, name, more.Env, "api")
	more.API.Start()
	more.AwaitAPI()
	return more
}

// valueWith returns NAME=value of a variable.
func valueWith(env []string, name string) string { return name + "=" + valueOf(env, name) }
