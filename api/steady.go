package api

import (
	"io"
	"net/http"
	"time"
)

// A steadyWriter gives the client time for each part of a long answer, not for
// the whole: it may be slow, but it must not stand still.
type steadyWriter struct {
	http.ResponseWriter
	rc *http.ResponseController
}

const (
	steadyPart = 4 << 20
	steadyTime = 60 * time.Second // for one part: 70 kB a second
)

func newSteadyWriter(w http.ResponseWriter) *steadyWriter {
	return &steadyWriter{ResponseWriter: w, rc: http.NewResponseController(w)}
}

// WriteHeader keeps caches from what http.ServeContent refuses.
func (s *steadyWriter) WriteHeader(status int) {
	if status >= http.StatusBadRequest {
		s.Header().Set("Cache-Control", "no-store")
	}
	s.ResponseWriter.WriteHeader(status)
}

func (s *steadyWriter) Write(b []byte) (int, error) {
	_ = s.rc.SetWriteDeadline(time.Now().Add(steadyTime))
	return s.ResponseWriter.Write(b)
}

// ReadFrom keeps sendfile(2) in reach: the connection asks the source for it.
func (s *steadyWriter) ReadFrom(src io.Reader) (n int64, err error) {
	limited, ok := src.(*io.LimitedReader)
	if !ok {
		return io.Copy(struct{ io.Writer }{s}, src)
	}
	for limited.N > 0 {
		_ = s.rc.SetWriteDeadline(time.Now().Add(steadyTime))
		part := &io.LimitedReader{R: limited.R, N: min(limited.N, steadyPart)}
		want := part.N
		m, err := io.Copy(s.ResponseWriter, part)
		n += m
		limited.N -= m
		if err != nil || m < want {
			return n, err
		}
	}
	return n, nil
}
