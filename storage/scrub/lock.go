package scrub

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/francescobianco/packbase/storage/pg"
)

// A blobShare is a shared lock on the blobs, which all jobs of a process hold
// together: a connection for each would be more than Postgres has.
type blobShare struct {
	conn *pgx.Conn // holds the lock: it goes with it, however this process ends
	jobs int
}

// blobShares are the locks of a process: the one to join, and older ones until
// their last job leaves.
type blobShares struct {
	turn chan struct{} // of the one who joins; it may take long

	mu   sync.Mutex
	last *blobShare
}

// Share keeps OwnBlobs waiting until release is called.
func (s *Store) Share(ctx context.Context) (release func(), err error) {
	select {
	case s.shares.turn <- struct{}{}:
		defer func() { <-s.shares.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("share blobs: %w", ctx.Err())
	}
	if release, ok := s.shares.join(ctx); ok {
		return release, nil
	}
	conn, err := s.lockBlobs(ctx, "pg_advisory_lock_shared")
	if err != nil {
		return nil, err
	}
	return s.shares.add(conn), nil
}

// Own waits until nobody shares the blobs, and keeps them from it until
// release is called.
func (s *Store) Own(ctx context.Context) (release func(), err error) {
	conn, err := s.lockBlobs(ctx, "pg_advisory_lock")
	if err != nil {
		return nil, err
	}
	return func() { closeConn(conn) }, nil
}

func (s *blobShares) add(conn *pgx.Conn) (release func()) {
	share := &blobShare{conn: conn, jobs: 1}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = share
	return s.leave(share)
}

// join takes part in the last lock if it holds and nobody waits to own the
// blobs: it would wait for ever if there was always one more to join.
func (s *blobShares) join(ctx context.Context) (release func(), ok bool) {
	s.mu.Lock()
	share := s.last
	if share == nil || share.jobs == 0 {
		s.mu.Unlock()
		return nil, false
	}
	share.jobs++
	s.mu.Unlock()
	release = s.leave(share)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err := share.conn.QueryRow(ctx, `
		SELECT NOT EXISTS (
			SELECT FROM pg_locks held JOIN pg_locks wanted USING (locktype, database, classid, objid, objsubid)
			WHERE held.pid = pg_backend_pid() AND locktype = 'advisory' AND NOT wanted.granted)`).Scan(&ok)
	if err != nil || !ok {
		release()
		return nil, false
	}
	return release, true
}

func (s *blobShares) leave(share *blobShare) (release func()) {
	return sync.OnceFunc(func() {
		s.mu.Lock()
		share.jobs--
		left := share.jobs
		s.mu.Unlock()
		if left == 0 {
			closeConn(share.conn)
		}
	})
}

func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn.Close(ctx)
}

// lockBlobs takes the lock on a connection of its own.
func (s *Store) lockBlobs(ctx context.Context, function string) (*pgx.Conn, error) {
	conn, err := s.db.Connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("lock blobs: %w", pg.Translate(err))
	}
	sql := `SET lock_timeout = 0; SET statement_timeout = 0; SELECT ` + function + `(hashtext('packbase blobs ' || current_schema()))`
	if _, err := conn.Exec(ctx, sql); err != nil {
		closeConn(conn)
		return nil, fmt.Errorf("lock blobs: %w", pg.Translate(err))
	}
	return conn, nil
}
