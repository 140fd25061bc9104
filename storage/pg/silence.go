package pg

import (
	"context"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// silenceOver is how much longer than its longest statement Postgres may be
// silent.
const silenceOver = 5 * time.Second

// limitSilence makes connections fail on which Postgres says nothing for
// longer than it lets a statement take. Without that, a server that froze or
// vanished would hold whoever had asked it something for ever.
func limitSilence(cfg *pgconn.Config) {
	limit, err := time.ParseDuration(cfg.RuntimeParams["statement_timeout"])
	if err != nil || limit <= 0 {
		return // set by the operator, in another unit or to none
	}
	limit += silenceOver
	dial := cfg.DialFunc
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &limitedConn{conn, limit}, nil
	}
}

// A limitedConn is closed if a read of it takes too long. Deadlines are left
// to pgx, which uses them to end what a context ends.
type limitedConn struct {
	net.Conn
	limit time.Duration
}

func (c *limitedConn) Read(p []byte) (int, error) {
	timer := time.AfterFunc(c.limit, func() { c.Close() })
	defer timer.Stop()
	return c.Conn.Read(p)
}

// Connect returns a connection beside the pool whose silence has no limit, for
// statements that take as long as they take. It goes with its settings and locks.
func (db *DB) Connect(ctx context.Context) (*pgx.Conn, error) {
	cfg := db.Pool.Config().ConnConfig
	cfg.DialFunc = db.dial
	return pgx.ConnectConfig(ctx, cfg)
}
