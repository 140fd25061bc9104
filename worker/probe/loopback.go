package probe

import (
	"fmt"
	"net"
	"net/http"
	"time"
)

// serveLoopback serves h on a free loopback port until stop is called.
func serveLoopback(h http.Handler) (port uint16, stop func(), err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, nil, fmt.Errorf("listen for probe: %w", err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(ln) // ends with Close
	}()
	return uint16(ln.Addr().(*net.TCPAddr).Port), func() {
		srv.Close()
		<-done
	}, nil
}
