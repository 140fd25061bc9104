package client

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// Who waits for a bundle does not wait for ever for a server that says nothing, before its answer or within.
func TestListen(t *testing.T) {
	t.Parallel()
	stop := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/whole":
			io.WriteString(w, "whole")
			return
		case "/within":
			io.WriteString(w, "half")
			http.NewResponseController(w).Flush()
		}
		<-stop
	}))
	defer s.Close()
	defer close(stop)
	base, err := parseBase(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(base, "", "1.0.0")
	for path, silent := range map[string]bool{"/before": true, "/within": true, "/whole": false} {
		most := time.Minute
		if silent {
			most = 200 * time.Millisecond
		}
		res, err := c.listen(t.Context(), most, http.MethodGet, path, nil)
		if err == nil {
			_, err = io.ReadAll(res.Body)
			res.Body.Close()
		}
		var away *AwayError
		if errors.As(err, &away) != silent || !silent && err != nil {
			t.Errorf("%s: %v, want it given up: %t", path, err, silent)
		}
	}
}
