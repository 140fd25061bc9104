package ingest

import (
	"context"
	"encoding/json"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/worker/upstream"
)

// A Looked is the answer to the URL of a repository that Download was to look at, in no order.
type Looked struct {
	URL    string       `json:"url"`
	Digest string       `json:"digest,omitempty"` // as upstream.Session has it
	Error  *fault.Error `json:"error,omitempty"`  // why there is none
}

// lookTime is how long one look takes: many wait for all of them, and a job has all the time that it needs.
const lookTime = time.Minute

// maxLooked bounds what a Download that upstream took over can have us keep.
const maxLooked = 64 << 10

// ReadLooks calls f for each answer, until there are no more or f returns false.
func ReadLooks(in io.Reader, f func(Looked) bool) {
	bounded := &io.LimitedReader{R: in}
	dec := json.NewDecoder(bounded)
	for {
		bounded.N = maxLooked
		var l Looked
		if dec.Decode(&l) != nil || !f(l) {
			return
		}
	}
}

// look answers wants, which are JSON strings, several at once, until there are no more. Once the host wants a rest it is
// asked nothing, and what is left is not answered.
func look(ctx context.Context, req DownloadRequest, wants *json.Decoder, out *json.Encoder) error {
	req.Egress.Limits.Total = lookTime
	client := upstream.New(req.Egress)
	var wg sync.WaitGroup
	var one sync.Mutex
	var failed error
	var resting atomic.Bool // the host wants a rest: the parent hears of it later
	turns := make(chan struct{}, upstream.MaxLooks)
	for {
		var url string
		if err := wants.Decode(&url); err != nil {
			wg.Wait()
			return failed
		}
		turns <- struct{}{}
		if resting.Load() {
			<-turns
			continue
		}
		wg.Go(func() {
			defer func() { <-turns }()
			digest, err := client.Look(ctx, url)
			l := Looked{URL: url, Digest: digest, Error: AsFault(err)}
			if err != nil && l.Error == nil {
				l.Error = fault.New(upstream.CodeUnreachable, err.Error())
			}
			if l.Error != nil && l.Error.RetryAfter > 0 {
				resting.Store(true)
			}
			one.Lock()
			defer one.Unlock()
			if err := out.Encode(l); err != nil {
				failed = err
			}
		})
	}
}
