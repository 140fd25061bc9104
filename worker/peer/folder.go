package peer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/francescobianco/packbase/storage/blob"
	"github.com/francescobianco/packbase/storage/feed"
)

// pollEvery is how often a folder is asked for what is new.
const pollEvery = 500 * time.Millisecond

// A Folder answers as a central does, for one of which no more can be reached than the folder of its blobs, with the index
// beside them: it tells what strangers are told.
type Folder struct {
	Index feed.Index
	Blobs blob.Opener
}

// RoundTrip implements http.RoundTripper.
func (f Folder) RoundTrip(req *http.Request) (*http.Response, error) {
	resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, ContentLength: -1, Request: req}
	var err error
	if _, digest, ok := strings.Cut(req.URL.Path, feed.BlobsPath); !ok {
		resp.Body, err = f.changes(req)
	} else if resp.Body, err = f.Blobs.Open(req.Context(), digest); errors.Is(err, fs.ErrNotExist) {
		resp.StatusCode, resp.Body, err = http.StatusNotFound, http.NoBody, nil
	}
	if err != nil {
		return nil, err
	}
	resp.Status = fmt.Sprint(resp.StatusCode, " ", http.StatusText(resp.StatusCode))
	return resp, nil
}

// changes answers with a page of the feed, and waits for one as long as the request says.
func (f Folder) changes(req *http.Request) (io.ReadCloser, error) {
	q := req.URL.Query()
	since, err := strconv.ParseInt(q.Get("since"), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("since: %w", fs.ErrInvalid)
	}
	limit, err := strconv.Atoi(q.Get("limit"))
	if err != nil {
		return nil, fmt.Errorf("limit: %w", fs.ErrInvalid)
	}
	wait, _ := strconv.Atoi(q.Get("wait"))
	for end, state := time.Now().Add(time.Duration(wait)*time.Second), "?"; ; {
		now := f.Index.State()
		if now != state || !time.Now().Before(end) {
			page, err := f.Index.Changes(since, limit)
			if err != nil {
				return nil, err
			}
			if len(page.Changes) > 0 || page.Head.Seq != since || !time.Now().Before(end) {
				raw, err := json.Marshal(page)
				return io.NopCloser(bytes.NewReader(raw)), err
			}
		}
		state = now
		pause(req.Context(), pollEvery)
		if err := req.Context().Err(); err != nil {
			return nil, err
		}
	}
}
