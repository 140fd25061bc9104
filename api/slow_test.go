package api_test

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/francescobianco/packbase/api"
	"github.com/francescobianco/packbase/api/pace"
)

// Whoever moves enough gets all, however long that takes; whoever does not is
// cut: tarballs, packs and request bodies.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	const window = 2 * time.Second
	g := newRegistry(t, func(o *api.Options) { o.Pace = pace.Limits{Rate: 64 << 10, Window: window} })
	noise := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	commit := g.publish("large", tagged{tag: "v1.0.0", files: files{"data.bin": string(noise)}})[0].CommitOID
	pack := "0011command=fetch0001" + "0032want " + commit + "\n" + "0009done\n" + "0000"
	requests := map[string]string{
		"tarball": "GET /p/large/tag/v1.0.0.tar.gz HTTP/1.1\r\nHost: x\r\n\r\n",
		"pack": "POST /large/git-upload-pack HTTP/1.1\r\nHost: x\r\nGit-Protocol: version=2\r\n" +
			"Content-Type: application/x-git-upload-pack-request\r\nContent-Length: " + fmt.Sprint(len(pack)) + "\r\n\r\n" + pack,
	}
	var all sync.WaitGroup
	defer all.Wait()
	for name, request := range requests {
		all.Go(func() {
			n, want, err := readSlowly(g, request, 512<<10)
			if err != nil || n != want {
				t.Errorf("%s, slowly: %d of %d bytes, %v", name, n, want, err)
			}
		})
		all.Go(func() {
			if n, want, err := readSlowly(g, request, 24<<10); err == nil || n > want/2 {
				t.Errorf("%s, trickling: %d of %d bytes, %v; want to be cut", name, n, want, err)
			}
		})
	}
	for name, head := range map[string]string{
		"JSON": "POST /api/fetch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token + "\r\nContent-Length: 1000\r\n\r\n{",
		"Git": "POST /large/git-upload-pack HTTP/1.1\r\nHost: x\r\nGit-Protocol: version=2\r\n" +
			"Content-Type: application/x-git-upload-pack-request\r\nContent-Length: 100000\r\n\r\n",
	} {
		conn := g.dial()
		began := time.Now()
		fmt.Fprint(conn, head)
		all.Go(func() {
			for range 100 { // fails once the server has closed
				if _, err := io.WriteString(conn, "0"); err != nil {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		})
		all.Go(func() {
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Errorf("%s body: %v", name, err)
				return
			}
			resp.Body.Close()
			if took := time.Since(began); resp.StatusCode != http.StatusBadRequest && resp.StatusCode != http.StatusRequestTimeout || took > 4*window {
				t.Errorf("%s body: %s after %v, want to be cut after %v", name, resp.Status, took, window)
			}
		})
	}
}

// readSlowly sends a request and reads the answer's body at rate bytes a
// second, for half a minute at most.
func readSlowly(g *registry, request string, rate int64) (n, want int64, err error) {
	conn, err := net.Dial("tcp", g.addr)
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close()
	_ = conn.(*net.TCPConn).SetReadBuffer(64 << 10)
	if _, err := io.Copy(conn, strings.NewReader(request)); err != nil {
		return 0, 0, err
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(conn, 4<<10), nil)
	if err != nil {
		return 0, 0, err
	}
	const ticks = 10 // a second
	for range 30 * ticks {
		m, err := io.CopyN(io.Discard, resp.Body, rate/ticks)
		n += m
		if err == io.EOF {
			return n, resp.ContentLength, nil
		}
		if err != nil {
			return n, resp.ContentLength, err
		}
		time.Sleep(time.Second / ticks)
	}
	return n, resp.ContentLength, nil
}
