package logbook

import (
	"io"
	"net/http"
	"time"

	"filippo.io/torchwood"
)

// MaxFile is more than any file of a log has, in bytes: checkpoints, policies, proofs, and tiles of 256 entries.
const MaxFile = 1 << 20

// tileTime bounds how long one tile takes.
const tileTime = 30 * time.Second

// TilesAt reads the tiles of the log at a URL. A server of somebody else's makes nobody hold more than a tile has, or wait as long as it says.
func TilesAt(url string, client *http.Client) (torchwood.TileReader, error) {
	bounded := *client
	bounded.Transport, bounded.Timeout = tileTransport{client.Transport}, tileTime
	return torchwood.NewTileFetcher(url, torchwood.WithHTTPClient(&bounded))
}

type tileTransport struct{ http.RoundTripper } // nil for the default

func (t tileTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	by := t.RoundTripper
	if by == nil {
		by = http.DefaultTransport
	}
	res, err := by.RoundTrip(r)
	if err == nil {
		res.Header.Del("Retry-After")
		res.Body = struct { // what is cut is no tile
			io.Reader
			io.Closer
		}{io.LimitReader(res.Body, MaxFile), res.Body}
	}
	return res, err
}
