package smarthttp

import (
	"bytes"
	"compress/gzip"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/francescobianco/packbase/storage/pktline"
)

var update = flag.Bool("update", false, "write golden files")

// golden compares got with testdata/name.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%q\nwant\n%q", name, got, want)
	}
}

// pkt returns packets of the lines, where "0000" and "0001" stay as they are.
func pkt(lines ...string) string {
	return pktline.Lines(lines...)
}

// An exchange is a request of git-upload-pack, without a client's checks.
type exchange struct {
	version string // of the protocol
	body    string
	gzip    bool
	chunked bool
	cut     int // bytes left out at the end, as sent
	header  map[string]string
}

func (e exchange) post(t *testing.T, url string) (resp *http.Response, body string) {
	t.Helper()
	sent := []byte(e.body)
	if e.gzip {
		sent = zip(e.body)
	}
	var r io.Reader = bytes.NewReader(sent[:len(sent)-e.cut])
	if e.chunked {
		r = struct{ io.Reader }{r}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/git-upload-pack", r)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-git-upload-pack-request")
	if e.version != "" {
		req.Header.Set("Git-Protocol", "version="+e.version)
	}
	if e.gzip {
		req.Header.Set("Content-Encoding", "gzip")
	}
	for k, v := range e.header {
		req.Header.Set(k, v)
	}
	resp, err = http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func zip(s string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	io.WriteString(z, s)
	z.Close()
	return b.Bytes()
}

// refused reports whether an answer is an error that a client notices.
func refused(resp *http.Response, body string) bool {
	if resp.StatusCode == http.StatusOK {
		return len(body) > 4 && strings.HasPrefix(body[4:], "ERR ")
	}
	return resp.StatusCode >= 400 && resp.StatusCode < 500 && body != ""
}

func TestAdvertisement(t *testing.T) {
	t.Parallel()
	url := serve(t, newMirror(t, newUpstream(t)), Options{Agent: "packbase/test"}) + "/pkg"
	for name, header := range map[string]string{
		"info-refs-v0": "", "info-refs-v1": "version=1", "info-refs-v2": "version=2:key=value",
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/info/refs?service=git-upload-pack", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Git-Protocol", header)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name, string(body))
		if got, want := resp.Header.Get("Content-Type"), "application/x-git-upload-pack-advertisement"; got != want {
			t.Errorf("%s: Content-Type = %q, want %q", name, got, want)
		}
		if got, want := resp.Header.Get("Cache-Control"), "no-cache, max-age=0, must-revalidate"; got != want {
			t.Errorf("%s: Cache-Control = %q, want %q", name, got, want)
		}
		if resp.ContentLength != int64(len(body)) {
			t.Errorf("%s: Content-Length = %d, want %d", name, resp.ContentLength, len(body))
		}
	}
}

func TestLsRefs(t *testing.T) {
	t.Parallel()
	url := serve(t, newMirror(t, newUpstream(t)), Options{}) + "/pkg"
	tests := []struct {
		name string
		args []string
	}{
		{"ls-refs-all", nil},
		{"ls-refs-git", []string{"peel\n", "symrefs\n", "unborn\n", "ref-prefix HEAD\n", "ref-prefix refs/heads/\n"}},
		// As Zig does for #v2; see the order of refs in zig.md, too.
		{"ls-refs-zig", []string{"ref-prefix v2\n", "ref-prefix refs/heads/v2\n", "ref-prefix refs/tags/v2\n", "peel\n"}},
		{"ls-refs-none", []string{"ref-prefix refs/pull/\n"}},
	}
	for _, tt := range tests {
		lines := append([]string{"command=ls-refs\n", "agent=zig/0.15.2\n", "object-format=sha1\n", pktline.Delim}, tt.args...)
		_, body := exchange{version: "2", body: pkt(append(lines, pktline.Flush)...)}.post(t, url)
		golden(t, tt.name, body)
	}
}

// zigFetch is the request of Zig 0.14 to 0.17: 24 stray bytes follow the id.
func zigFetch(id string, stray byte) string {
	return pkt("command=fetch\n", "agent=zig/0.15.2\n", "object-format=sha1\n", pktline.Delim, "ofs-delta\n", "no-progress\n",
		"deepen 1\n", "want "+id+strings.Repeat(string(rune(stray)), 24)+"\n", "done\n", pktline.Flush)
}

func TestZigRequest(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	m := newMirror(t, u)
	url := serve(t, m, Options{}) + "/pkg"
	id := u.git("rev-parse", "v2^{}")
	tests := []struct {
		name string
		body string
	}{
		{"nul", zigFetch(id, 0)},
		{"letters", zigFetch(id, 'a')},
		{"line feeds", zigFetch(id, '\n')},
		{"spaces", zigFetch(id, ' ')},
		{"0.13", strings.Replace(zigFetch(id, 'z'), "004awant "+id+strings.Repeat("z", 24), "0032want "+id, 1)},
	}
	for _, tt := range tests {
		resp, body := exchange{version: "2", body: tt.body}.post(t, url)
		head := pkt("shallow-info\n", "shallow "+id+"\n", pktline.Delim, "packfile\n")
		rest, ok := strings.CutPrefix(body, head)
		if !ok {
			t.Fatalf("%s: answer starts %.200q, want %q", tt.name, body, head)
		}
		if resp.ContentLength != int64(len(body)) {
			t.Errorf("%s: Content-Length = %d, want %d", tt.name, resp.ContentLength, len(body))
		}
		pack := unband(t, rest)
		st := m.packs[u.parse(id)]
		if !strings.HasSuffix(pack, string(st.Trailer[:])) || int64(len(pack)) != st.Size {
			t.Errorf("%s: pack of %d bytes, want %d as stored", tt.name, len(pack), st.Size)
		}
		checkPack(t, pack, int(st.Objects))
	}
}

// unband returns the pack of a sequence of sideband packets, which must be
// data, none empty, and a flush.
func unband(t *testing.T, s string) string {
	t.Helper()
	var pack strings.Builder
	for !strings.HasPrefix(s, pktline.Flush) {
		var n int
		if _, err := fmt.Sscanf(s[:min(4, len(s))], "%04x", &n); err != nil || n > len(s) || n < 6 || n > pktline.MaxSize || s[4] != 1 {
			t.Fatalf("bad packet %.20q: %v", s, err)
		}
		pack.WriteString(s[5:n])
		s = s[n:]
	}
	if s != pktline.Flush {
		t.Errorf("%d bytes after the flush", len(s)-len(pktline.Flush))
	}
	return pack.String()
}

// checkPack checks that git takes a pack as complete.
func checkPack(t *testing.T, pack string, objects int) {
	t.Helper()
	dir := t.TempDir()
	git(t, dir, "init", "-q", "--bare")
	cmd := exec.Command("git", "index-pack", "--stdin")
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(pack)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("git index-pack: %v\n%s", err, out)
	}
	if got := strings.Count(git(t, dir, "cat-file", "--batch-all-objects", "--batch-check"), "\n") + 1; got != objects {
		t.Errorf("%d objects, want %d", got, objects)
	}
}

// GT-02: every form of body, whole and cut at every byte.
func TestBodyForms(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	url := serve(t, newMirror(t, u), Options{}) + "/pkg"
	id := u.git("rev-parse", "v2^{}")
	requests := []struct {
		name, version, body string
	}{
		{"fetch", "2", zigFetch(id, 0)},
		{"ls-refs", "2", pkt("command=ls-refs\n", pktline.Delim, "peel\n", pktline.Flush)},
		{"version 0", "", pkt("want "+id+" side-band-64k agent=x\n", pktline.Flush, "done\n")},
	}
	for _, r := range requests {
		for _, zipped := range []bool{false, true} {
			for _, chunked := range []bool{false, true} {
				e := exchange{version: r.version, body: r.body, gzip: zipped, chunked: chunked}
				name := fmt.Sprintf("%s, gzip %v, chunked %v", r.name, zipped, chunked)
				resp, body := e.post(t, url)
				if resp.StatusCode != 200 || len(body) < 100 || refused(resp, body) {
					t.Errorf("%s: %s, %.100q", name, resp.Status, body)
				}
				length := len(r.body)
				if zipped {
					length = 30 // the last bytes: the checksum, and some before
				}
				for e.cut = 1; e.cut <= length; e.cut++ {
					if resp, body := e.post(t, url); !refused(resp, body) {
						t.Errorf("%s: last %d bytes cut: %s, %.100q", name, e.cut, resp.Status, body)
					}
				}
			}
		}
	}
}

func TestBadBodies(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	url := serve(t, newMirror(t, u), Options{MaxBody: 100_000, MaxInflated: 200_000, MaxWants: 100, MaxHaves: 100}) + "/pkg"
	id := u.git("rev-parse", "v2^{}")
	v2 := func(lines ...string) exchange {
		lines = append([]string{"command=fetch", "object-format=sha1", pktline.Delim}, lines...)
		return exchange{version: "2", body: pkt(append(lines, pktline.Flush)...)}
	}
	v0 := func(lines ...string) exchange { return exchange{body: pkt(lines...)} }
	want := "want " + id
	tests := []struct {
		name string
		exchange
		status int
		text   string
	}{
		{"empty", exchange{version: "2"}, 400, "no command"},
		{"empty, version 0", exchange{}, 400, "too early"},
		{"no command", exchange{version: "2", body: pkt("agent=git/2", pktline.Flush)}, 400, "no command"},
		{"bytes after a flush", exchange{version: "2", body: pktline.Flush + pktline.Flush}, 400, "bytes follow"},
		{"bytes after a flush, version 0", exchange{body: pktline.Flush + pktline.Flush}, 400, "bytes follow"},
		{"not gzip", exchange{version: "2", body: zigFetch(id, 0), header: map[string]string{"Content-Encoding": "gzip"}}, 400, "malformed"},
		{"unknown encoding", exchange{version: "2", body: "x", header: map[string]string{"Content-Encoding": "br"}}, 415, "gzip"},
		{"two encodings", exchange{version: "2", body: "x", header: map[string]string{"Content-Encoding": "gzip, gzip"}}, 415, "gzip"},
		{"wrong type", exchange{version: "2", body: "x", header: map[string]string{"Content-Type": "text/plain"}}, 415, "Content-Type"},
		{"too long", exchange{version: "2", body: pkt(many(3, "agent="+strings.Repeat("x", 60_000))...)}, 413, "too large"},
		{"too long inflated", exchange{version: "2", gzip: true, body: pkt(many(5, "agent="+strings.Repeat("x", 60_000))...)}, 413, "too large"},
		{"bad length", exchange{version: "2", body: "00zzcommand=fetch"}, 400, "pkt-line"},
		{"signed length", exchange{version: "2", body: "+011command=fetch"}, 400, "pkt-line"},
		{"length 2", exchange{version: "2", body: "0002"}, 400, "pkt-line"},
		{"length 3", exchange{version: "2", body: "0003"}, 400, "pkt-line"},
		{"length of more than a packet", exchange{version: "2", body: "ffff" + strings.Repeat("x", 70_000)}, 400, "pkt-line"},
		{"bytes after the end", exchange{version: "2", body: zigFetch(id, 0) + "0"}, 400, "follow"},

		// GT-03
		{"unknown want", v2("want " + strings.Repeat("1", 40)), 200, "not our ref 1111"},
		{"tree", v2("want " + u.git("rev-parse", "v2^{tree}")), 200, "not our ref"},
		{"blob", v2("want " + u.git("rev-parse", "v2:big.txt")), 200, "not our ref"},
		{"history", v2(want, "want "+u.git("rev-parse", "v2~1^{tree}")), 200, "not our ref"},
		{"short want", v2("want " + id[:39]), 200, "malformed want"},
		{"no id", v2("want"), 200, "malformed want"},
		{"want of no hex", v2("want " + strings.Repeat("g", 40)), 200, "malformed want"},
		{"sha256", v2("want " + strings.Repeat("1", 64)), 200, "not our ref"},
		{"no wants", v2("done"), 200, "wants nothing"},
		{"long have", v2(want, "have "+strings.Repeat("1", 64)), 200, "malformed have"},
		{"bad shallow", v2(want, "shallow 12"), 200, "malformed shallow"},
		{"many wants", v2(many(101, want)...), 200, "more than 100 want"},
		{"many haves", v2(append(many(101, "have "+id), want)...), 200, "more than 100 have"},
		{"many haves, version 0", v0(append([]string{want, pktline.Flush}, many(101, "have "+id)...)...), 200, "more than 100 have"},
		{"many lines", v2(append(many(1400, "no-progress"), want)...), 200, "too many lines"},
		{"unknown want, version 0", v0("want "+strings.Repeat("1", 40), pktline.Flush, "done"), 200, "not our ref"},
		{"have first, version 0", v0("have "+id, pktline.Flush, "done"), 200, "unexpected line"},
		{"no done, version 0", v0(want, pktline.Flush), 400, "too early"},
		{"nonsense, version 0", v0(want, pktline.Flush, "want "+id), 200, "expected have"},
		{"sha256, version 0", v0(want+" object-format=sha256", pktline.Flush, "done"), 200, "object format"},
		{"filter, version 0", v0(want, "filter blob:none", pktline.Flush, "done"), 200, "filter is not supported"},

		// GT-04
		{"unknown command", exchange{version: "2", body: pkt("command=push", pktline.Flush)}, 200, `unknown command "push"`},
		{"object-info", exchange{version: "2", body: pkt("command=object-info", pktline.Delim, "size", pktline.Flush)}, 200, "unknown command"},
		{"receive-pack", exchange{version: "2", body: pkt("command=receive-pack", pktline.Flush)}, 200, "unknown command"},
		{"two commands", exchange{version: "2", body: pkt("command=fetch", "command=ls-refs", pktline.Flush)}, 200, "two commands"},
		{"unknown capability", exchange{version: "2", body: pkt("command=fetch", "speed=high", pktline.Flush)}, 200, "unknown capability"},
		{"sha256 repository", exchange{version: "2", body: pkt("command=fetch", "object-format=sha256", pktline.Flush)}, 200, "object format"},
		{"no arguments", exchange{version: "2", body: pkt("command=fetch", pktline.Flush)}, 200, "wants nothing"},
		{"second delim", v2(want, pktline.Delim, "done"), 200, "expected flush"},
		{"unknown argument", v2(want, "hurry"), 200, "unexpected line"},
		{"empty line", v2(want, ""), 200, "unexpected line"},
		{"unknown ls-refs argument", exchange{version: "2", body: pkt("command=ls-refs", pktline.Delim, "hurry", pktline.Flush)}, 200, "unexpected line"},
		{"filter", v2(want, "filter blob:none"), 200, "filter is not supported"},
		{"packfile-uris", v2(want, "packfile-uris https"), 200, "packfile-uris is not supported"},
		{"want-ref", v2("want-ref refs/tags/v1"), 200, "want-ref is not supported"},
		{"sideband-all", v2(want, "sideband-all"), 200, "sideband-all is not supported"},
		{"deepen-since", v2(want, "deepen-since 1"), 200, "deepen-since is not supported"},
		{"deepen-not", v2(want, "deepen-not v1"), 200, "deepen-not is not supported"},
		{"deepen 0", v2(want, "deepen 0"), 200, "malformed deepen"},
		{"deepen -1", v2(want, "deepen -1"), 200, "malformed deepen"},
	}
	for _, tt := range tests {
		resp, body := tt.post(t, url)
		if resp.StatusCode != tt.status || !refused(resp, body) || !strings.Contains(body, tt.text) {
			t.Errorf("%s: %s, %.200q, want %d, %q", tt.name, resp.Status, body, tt.status, tt.text)
		}
		if resp.Header.Get("X-Packbase-Error") == "" {
			t.Errorf("%s: no X-Packbase-Error", tt.name)
		}
	}
}

// Before a long body Git sends a flush, to see whether it may.
func TestProbe(t *testing.T) {
	t.Parallel()
	url := serve(t, newMirror(t, newUpstream(t)), Options{}) + "/pkg"
	for _, version := range []string{"", "1", "2"} {
		resp, body := exchange{version: version, body: pktline.Flush}.post(t, url)
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != resultType || body != "" {
			t.Errorf("version %q: got %s, %q, want 200 and nothing", version, resp.Status, body)
		}
	}
}

func many(n int, line string) []string {
	lines := make([]string, n)
	for i := range lines {
		lines[i] = line
	}
	return lines
}

// GT-05
func TestReceivePack(t *testing.T) {
	t.Parallel()
	url := serve(t, newMirror(t, newUpstream(t)), Options{}) + "/pkg"
	tests := []struct {
		method, path, protocol string
		status                 int
	}{
		{"GET", "/info/refs?service=git-receive-pack", "", 403},
		{"GET", "/info/refs?service=git-receive-pack", "version=2", 403},
		{"POST", "/info/refs?service=git-receive-pack", "", 403},
		{"PUT", "/info/refs?service=git-receive-pack", "", 403},
		{"GET", "/info/refs?service=git-upload-pack&service=git-receive-pack", "", 403},
		{"GET", "/info/refs?service=git-receive-pack&service=git-upload-pack", "", 403},
		{"GET", "/info/refs?service=GIT-RECEIVE-PACK", "", 403},
		{"GET", "/info/refs?service=git%2Dreceive%2Dpack", "", 403},
		{"GET", "/info/refs?Service=git-upload-pack", "", 403},
		{"GET", "/info/refs?service=git-upload-pack%00", "", 403},
		{"GET", "/info/refs?service=git-upload-archive", "", 403},
		{"GET", "/info/refs?service=", "", 403},
		{"GET", "/info/refs", "", 403},
		{"GET", "/info/refs?service=git-upload-pack;x", "", 400},
		{"GET", "/info/refs?service=git-upload-pack", "version=2:command=git-receive-pack", 200},
		{"HEAD", "/info/refs?service=git-upload-pack", "", 200},
		{"DELETE", "/info/refs?service=git-upload-pack", "", 405},
		{"POST", "/git-upload-pack?service=git-receive-pack", "", 403},
		{"PUT", "/git-upload-pack", "", 405},
		{"GET", "/git-upload-pack", "", 405},
		{"POST", "/git-receive-pack", "", 404},
		{"POST", "/GIT-RECEIVE-PACK", "", 404},
		{"GET", "/git%2Dreceive%2Dpack", "", 404},
	}
	for _, tt := range tests {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, url+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Git-Protocol", tt.protocol)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tt.status {
			t.Errorf("%s %s: %s, want %d", tt.method, tt.path, resp.Status, tt.status)
		}
	}
}

func TestBadContentLength(t *testing.T) {
	t.Parallel()
	h := New(newMirror(t, newUpstream(t)), Options{}, slog.New(slog.DiscardHandler))
	url := serveHandler(t, h, 200*time.Millisecond)
	for name, header := range map[string]string{
		"overflow": "Content-Length: 92233720368547758070", "empty": "Content-Length: ", "negative": "Content-Length: -1",
		"both": "Content-Length: 4\r\nTransfer-Encoding: chunked", "coding": "Transfer-Encoding: gzip, chunked",
		"never ends": "Content-Length: 100", // 408 when the client's time is over
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(conn, "POST /pkg/git-upload-pack HTTP/1.1\r\nHost: x\r\nGit-Protocol: version=2\r\n"+
			"Content-Type: application/x-git-upload-pack-request\r\n%s\r\n\r\n0000", header)
		answer := make([]byte, 12)
		if _, err := io.ReadFull(conn, answer); err != nil || answer[9] != '4' && answer[9] != '5' {
			t.Errorf("%s: %q, %v, want a refusal", name, answer, err)
		}
	}
}

func TestNegotiation(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	m := newMirror(t, u)
	url := serve(t, m, Options{}) + "/pkg"
	v1, v2, other := u.git("rev-parse", "v1^{}"), u.git("rev-parse", "v2^{}"), strings.Repeat("1", 40)
	without := func(want, have string) int { // objects
		ids := u.objects(u.parse(want))
		n := len(ids)
		for _, id := range u.objects(u.parse(have)) {
			for _, w := range ids {
				if w == id {
					n--
				}
			}
		}
		return n
	}
	all, rest := len(u.objects(u.parse(v2))), without(v2, v1)
	v0 := func(capabilities string, lines ...string) exchange {
		return exchange{body: pkt(append([]string{"want " + v2 + capabilities + "\n"}, lines...)...)}
	}
	fetch := func(lines ...string) exchange {
		lines = append([]string{"command=fetch", pktline.Delim, "want " + v2 + "\n"}, lines...)
		return exchange{version: "2", body: pkt(append(lines, pktline.Flush)...)}
	}
	ack := func(id, what string) string { return "ACK " + id + what + "\n" }
	tests := []struct {
		name string
		exchange
		head    string
		objects int // -1: no pack
		raw     bool
	}{
		{"v0 clone", v0(" side-band-64k", pktline.Flush, "done\n"), pkt("NAK\n"), all, false},
		{"v0 small packets", v0(" side-band", pktline.Flush, "done\n"), pkt("NAK\n"), all, false},
		{"v0 no packets", v0("", pktline.Flush, "done\n"), pkt("NAK\n"), all, true},
		{"v0 depth, lines only", v0("", "deepen 1\n", pktline.Flush), pkt("shallow "+v2+"\n", pktline.Flush), -1, false},
		{"v0 depth", v0(" side-band-64k", "deepen 1\n", pktline.Flush, "done\n"), pkt("shallow "+v2+"\n", pktline.Flush, "NAK\n"), all, false},
		{"v0 depth of known", v0(" side-band-64k", "shallow "+v2, "deepen 1", pktline.Flush, "done"), pkt(pktline.Flush, "NAK\n"), all, false},
		{"v0 nothing common", v0(" multi_ack_detailed no-done", pktline.Flush, "have "+other, pktline.Flush), pkt("NAK\n"), -1, false},
		{"v0 single", v0("", pktline.Flush, "have "+other, "have "+v1, pktline.Flush), pkt(ack(v1, "")), -1, false},
		{"v0 single done", v0(" side-band-64k", pktline.Flush, "have "+v1, "done"), pkt(ack(v1, "")), rest, false},
		{"v0 multi", v0(" multi_ack", pktline.Flush, "have "+v1, pktline.Flush), pkt(ack(v1, " continue"), "NAK\n"), -1, false},
		{"v0 multi done", v0(" multi_ack side-band-64k", pktline.Flush, "have "+v1, "done"), pkt(ack(v1, " continue"), ack(v1, "")), rest, false},
		{"v0 detailed", v0(" multi_ack_detailed", pktline.Flush, "have "+v1, pktline.Flush), pkt(ack(v1, " common"), ack(v1, " ready"), "NAK\n"), -1, false},
		{"v0 no done", v0(" multi_ack_detailed no-done side-band-64k", pktline.Flush, "have "+v1, pktline.Flush),
			pkt(ack(v1, " common"), ack(v1, " ready"), "NAK\n", ack(v1, "")), rest, false},
		{"v0 detailed done", v0(" multi_ack_detailed side-band-64k", pktline.Flush, "have "+v1, "done"), pkt(ack(v1, " common"), ack(v1, "")), rest, false},

		{"v2 clone", fetch("done"), pkt("shallow-info\n", "shallow "+v2+"\n", pktline.Delim, "packfile\n"), all, false},
		{"v2 no done", fetch(), pkt("shallow-info\n", "shallow "+v2+"\n", pktline.Delim, "packfile\n"), all, false},
		{"v2 twice", fetch("want "+v2, "done"), pkt("shallow-info\n", "shallow "+v2+"\n", pktline.Delim, "packfile\n"), all, false},
		{"v2 depth of known", fetch("shallow "+v2, "deepen 3", "done"), pkt("shallow-info\n", pktline.Delim, "packfile\n"), all, false},
		{"v2 had", fetch("have "+v2, "done"), pkt("packfile\n"), 0, false},
		{"v2 nothing common", fetch("have " + other), pkt("acknowledgments\n", "NAK\n", pktline.Flush), -1, false},
		{"v2 ready", fetch("have "+v1, "have "+other), pkt("acknowledgments\n", ack(v1, ""), "ready\n", pktline.Delim,
			"shallow-info\n", "shallow "+v2+"\n", pktline.Delim, "packfile\n"), rest, false},
		{"v2 wait for done", fetch("have "+v1, "wait-for-done"), pkt("acknowledgments\n", ack(v1, ""), pktline.Flush), -1, false},
		{"v2 into shallow", fetch("have "+v1, "shallow "+other, "shallow "+v1, "done"), pkt("shallow-info\n",
			"unshallow "+v1+"\n", "shallow "+v1+"\n", "shallow "+v2+"\n", pktline.Delim, "packfile\n"), rest, false},
		{"v2 into shallow of dulwich", exchange{version: "2", body: pkt("command=fetch\n", "agent=dulwich/1.2.21\n", pktline.Delim, "want "+v2+"\n",
			"have "+v1, "shallow "+v1, "done", pktline.Flush)}, pkt("shallow-info\n", "shallow "+v2+"\n", pktline.Delim, "packfile\n"), rest, false},
	}
	for _, tt := range tests {
		resp, body := tt.post(t, url)
		rest, ok := strings.CutPrefix(body, tt.head)
		if !ok {
			t.Errorf("%s: %s, %.300q, want %q", tt.name, resp.Status, body, tt.head)
			continue
		}
		if resp.ContentLength != int64(len(body)) {
			t.Errorf("%s: Content-Length = %d, want %d", tt.name, resp.ContentLength, len(body))
		}
		switch {
		case tt.objects < 0:
			if rest != "" {
				t.Errorf("%s: %.100q after the head, want nothing", tt.name, rest)
			}
		case tt.objects == 0:
			if pack := unband(t, rest); len(pack) != 32 {
				t.Errorf("%s: pack of %d bytes, want 32", tt.name, len(pack))
			}
		case tt.raw:
			checkPack(t, rest, tt.objects)
		default:
			checkObjects(t, unband(t, rest), tt.objects)
		}
	}
}

// checkObjects checks the number in a pack that need not be complete.
func checkObjects(t *testing.T, pack string, objects int) {
	t.Helper()
	if got := int(pack[10])<<8 + int(pack[11]); got != objects {
		t.Errorf("%d objects, want %d", got, objects)
	}
}

// A client that stops reading must not hold its turn for ever.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	u.write("large.bin", noise(24<<20)) // more than the sockets hold
	u.commit("v5")
	h := New(newMirror(t, u), Options{Fetches: 1, Wait: 20 * time.Second}, slog.New(slog.DiscardHandler))
	url := serveHandler(t, h, 300*time.Millisecond)
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := zigFetch(u.git("rev-parse", "v5^{}"), 0)
	fmt.Fprintf(conn, "POST /pkg/git-upload-pack HTTP/1.1\r\nHost: x\r\nGit-Protocol: version=2\r\n"+
		"Content-Type: application/x-git-upload-pack-request\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	if _, err := io.ReadFull(conn, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	end, err := h.packs.acquire(t.Context(), "other", "other", h.opts.Wait)
	if err != nil {
		t.Fatalf("the turn of a client that does not read: %v", err)
	}
	end()
}

func TestUnreadableSegment(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	m := newMirror(t, u)
	m.unreadable = true
	url := serve(t, m, Options{}) + "/pkg"
	for _, v := range versions {
		dir := filepath.Join(t.TempDir(), "clone")
		out, err := run(t, ".", "-c", "protocol.version="+v, "clone", url, dir)
		if err == nil || !strings.Contains(out, "remote: packbase: a stored object cannot be read") {
			t.Errorf("v%s: %v, %s", v, err, out)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("v%s: half a clone is left", v)
		}
	}
}
