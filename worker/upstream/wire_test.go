package upstream

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing/protocol/packp"

	"github.com/francescobianco/packbase/storage/gitpack"
	"github.com/francescobianco/packbase/storage/pktline"
)

// someID is the object that made-up servers offer.
const someID = "1234567890123456789012345678901234567890"

const someCaps = "multi_ack thin-pack side-band side-band-64k ofs-delta shallow no-progress include-tag agent=git/2 symref=HEAD:refs/heads/main"

// pkt returns one pkt-line.
func pkt(s string) string { return pktline.Lines(s) }

// refList returns an advertisement of someID under each name.
func refList(names ...string) string {
	var b strings.Builder
	b.WriteString(pkt("# service=git-upload-pack\n") + "0000")
	for i, name := range names {
		line := someID + " " + name
		if i == 0 {
			line += "\x00" + someCaps
		}
		b.WriteString(pkt(line + "\n"))
	}
	b.WriteString("0000")
	return b.String()
}

// packHead is what comes before a pack.
var packHead = pkt("shallow "+someID) + "0000" + pkt("NAK\n")

// band returns one packet of a multiplexed pack.
func band(channel byte, s string) string { return pkt(string(channel) + s) }

// A fake answers like a smart Git server, with what is set.
type fake struct {
	list func(w http.ResponseWriter, r *http.Request)
	pack func(w http.ResponseWriter, r *http.Request)
}

func (f fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasSuffix(r.URL.Path, "/info/refs") && f.list != nil:
		w.Header().Set("Content-Type", advertisement)
		f.list(w, r)
	case strings.HasSuffix(r.URL.Path, "/info/refs"):
		w.Header().Set("Content-Type", advertisement)
		io.WriteString(w, refList("HEAD", "refs/heads/main", "refs/tags/v1"))
	default:
		io.Copy(io.Discard, r.Body) // else the server does not see that the client is gone
		w.Header().Set("Content-Type", result)
		f.pack(w, r)
	}
}

func say(s string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, s) }
}

func listHandler(names ...string) http.Handler { return fake{list: say(refList(names...))} }

// fetch lists and fetches from h.
func fetch(t testing.TB, h http.Handler, limits Limits) (pack []byte, err error) {
	t.Helper()
	base, _ := newServer(t, h)
	s, err := newClient(t, Options{Limits: limits}).Connect(t.Context(), base+"/o/r")
	if err != nil {
		return nil, err
	}
	defer s.Close()
	var b bytes.Buffer
	err = s.FetchPack(t.Context(), []gitpack.OID{oid(t, someID)}, &b, nil)
	return b.Bytes(), err
}

// UP-16.
func TestRefNames(t *testing.T) {
	t.Parallel()
	good := []string{
		"v1.0.0", "1", "a/b", "a/b/c", "v1+2", "v1-rc.1", "@", "x@y", "héllo", "日本", "a.b", "lock", "a.locked", "HEAD", "v'1", `v"1`, "v$1", "v<1>", "a&b", "{a}",
		strings.Repeat("x", 255-len(tagPrefix)),
	}
	bad := []string{
		"../../../../tmp/PWN", "..", ".", "", "/", "a/", "/a", "a//b", "a.lock", "a.lock/b", "-oops", "--upload-pack=x", "\x1b[31mred", `back\slash`,
		"\xff", "a\xc0\xafb", strings.Repeat("x", 5000), strings.Repeat("x", 256-len(tagPrefix)), "sp ace", "a  b", "tab\tx", "a~1", "a^", "a:b", "a?", "a*", "a[b",
		".hidden", "a/.b", "a..b", "a.", "a@{1}", "\x7f", "nul\x00", "\u202egnp", "zero\u200bwidth", "line\u2028sep", "nb\u00a0sp", "c1\u0085", "\ufeffbom", "a\rb", "^{}x",
	}
	names := []string{"HEAD", "refs/heads/main", "refs/heads/b ad", "refs/pull/1/head", "refs/notes/x", "refs/tags", "nonsense", "../../x"}
	for _, n := range append(slices.Clone(bad), good...) {
		names = append(names, tagPrefix+n, tagPrefix+n+"^{}")
	}
	base, c := newServer(t, listHandler(names...))
	refs := connect(t, c, base+"/o/r").Refs()

	var got []string
	for _, tag := range refs.Tags {
		got = append(got, tag.Name)
		if tag.OID.String() != someID || tag.Peeled.String() != someID {
			t.Errorf("%q = %v, %v, want %s twice", tag.Name, tag.OID, tag.Peeled, someID)
		}
	}
	slices.Sort(good)
	if !slices.Equal(got, good) {
		t.Errorf("tags = %q, want %q", got, good)
	}
	if len(refs.Branches) != 1 || refs.Head != "refs/heads/main" {
		t.Errorf("branches = %v, head = %q, want main", refs.Branches, refs.Head)
	}
	if len(refs.Skipped) != len(bad)+1 {
		t.Errorf("skipped = %d, want %d", len(refs.Skipped), len(bad)+1)
	}
	for _, s := range refs.Skipped {
		if s.Reason == "" || len(s.Name) > 120 || s.Name != printable(s.Name, 200) {
			t.Errorf("skipped %q: %q, want a short printable name and a reason", s.Name, s.Reason)
		}
	}
}

// The rules agree with git's own, where git has the rule.
func TestRefNamesAgainstGit(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"v1", "a/b", "a/.b", ".a", "a.lock", "a.lock/b", "a..b", "a.", "a@{b", "@", "a b", "a~b", "a^b", "a:b", "a?b", "a*b", "a[b", `a\b`,
		"a\x01", "a\x7f", "/a", "a/", "a//b", "", "a{b", "a@b", "a.b.c", "lock", ".lock", "a/b.lock", "..", "a/..",
	} {
		ref := tagPrefix + name
		err := exec.Command("git", "check-ref-format", ref).Run()
		if ours := badRefName(ref); (ours == "") != (err == nil) {
			t.Errorf("%q: reason = %q, git says %v", ref, ours, err)
		}
	}
}

func TestListForms(t *testing.T) {
	t.Parallel()
	service := pkt("# service=git-upload-pack\n") + "0000"
	first := func(s string) string { return service + pkt(s) + "0000" }
	tests := []struct {
		name, list, code string
	}{
		{"usual", refList("HEAD", "refs/tags/v1"), ""},
		{"no head", refList("refs/tags/v1"), ""},
		{"only bad names", refList("refs/tags/-v1", "refs/tags/-v1^{}"), ""},
		{"bad name first", refList("refs/tags/-v1", "refs/tags/v1"), ""},
		{"empty, flush", service + "0000", ""},
		{"empty, capabilities", first(strings.Repeat("0", 40) + " capabilities^{}\x00" + someCaps), ""},
		{"odd capabilities", first(someID + " HEAD\x00agent= agent=a agent=b symref multi_ack=3 symref=HEAD:a symref=HEAD:b object-format=sha1 symref=HEAD:../x"), ""},
		{"shallow upstream", service + pkt(someID+" HEAD\x00"+someCaps) + pkt("shallow "+someID) + "0000", ""},
		{"sha-256", first(strings.Repeat("a", 64) + " HEAD\x00object-format=sha256"), CodeUnsupported},
		{"sha-256, empty", first(strings.Repeat("0", 40) + " capabilities^{}\x00object-format=sha256"), CodeUnsupported},
		{"no capabilities", first(someID + " HEAD"), CodeNotGit},
		{"no service", pkt(someID+" HEAD\x00"+someCaps) + "0000", CodeNotGit},
		{"no flush after service", pkt("# service=git-upload-pack\n") + pkt(someID+" HEAD\x00"+someCaps) + "0000", CodeNotGit},
		{"other service", pkt("# service=git-receive-pack\n") + "00000000", CodeNotGit},
		{"html", "<html>hello</html>", CodeNotGit},
		{"nothing", "", CodeIncomplete},
		{"no end", strings.TrimSuffix(refList("HEAD"), "0000"), CodeIncomplete},
		{"cut in a line", refList("HEAD", "refs/heads/main")[:120], CodeIncomplete},
		{"cut in a length", refList("HEAD") + "00", ""},
		{"bad length", service + "zzzz", CodeNotGit},
		{"length 1", service + "0001", CodeNotGit},
		{"length above the most", service + "fff1" + strings.Repeat("x", 1<<16), CodeNotGit},
		{"short id", first("1234 HEAD\x00" + someCaps), CodeNotGit},
		{"id not hex", first(strings.Repeat("x", 40) + " HEAD\x00" + someCaps), CodeNotGit},
		{"no name", first(someID + "\x00" + someCaps), CodeNotGit},
		{"error", service + pkt("ERR access denied\n"), CodeRefused},
		{"error first", pkt("ERR access denied\n"), CodeRefused},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			base, c := newServer(t, fake{list: say(tt.list)})
			s, err := c.Connect(t.Context(), base+"/o/r")
			if tt.code != "" {
				wantCode(t, err, tt.code)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			s.Close()
		})
	}
}

// UP-08. Each server would send for ever, or more than the client may keep.
func TestRefFloods(t *testing.T) {
	t.Parallel()
	endless := func(line func(i int) string) http.Handler {
		return fake{list: func(w http.ResponseWriter, r *http.Request) {
			out := bufio.NewWriter(w)
			io.WriteString(out, strings.TrimSuffix(refList("HEAD"), "0000"))
			for i := 0; r.Context().Err() == nil; i++ {
				if _, err := io.WriteString(out, pkt(line(i))); err != nil {
					return
				}
			}
		}}
	}
	long := strings.Repeat("x", 65000)
	tests := []struct {
		name string
		line func(i int) string
		code string
	}{
		{"tags", func(i int) string { return fmt.Sprintf("%s refs/tags/%d", someID, i) }, CodeTooManyRefs},
		{"one tag again", func(int) string { return someID + " refs/tags/v1" }, CodeTooManyRefs},
		{"bad tags", func(i int) string { return fmt.Sprintf("%s refs/tags/-%d", someID, i) }, CodeTooManyRefs},
		{"pull requests", func(i int) string { return fmt.Sprintf("%s refs/pull/%d/head", someID, i) }, CodeRefListTooLarge},
		{"peeled", func(i int) string { return someID + " refs/tags/v1^{}" }, CodeRefListTooLarge},
		{"shallow", func(i int) string { return "shallow " + someID }, CodeRefListTooLarge},
		{"long names", func(i int) string { return someID + " refs/tags/" + long }, CodeRefListTooLarge},
		{"empty lines", func(i int) string { return "" }, CodeNotGit},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := fetch(t, endless(tt.line), Limits{Refs: 5_000, RefListBytes: 2 << 20})
			wantCode(t, err, tt.code)
		})
	}
}

// UP-08: a million refs take at most 64 MiB, in a process of its own.
func TestRefFloodMemory(t *testing.T) {
	if url := os.Getenv("PACKBASE_TEST_FLOOD"); url != "" {
		_, err := New(Options{Allow: parse(t, "127.0.0.0/8")}).Connect(t.Context(), url)
		wantCode(t, err, CodeTooManyRefs)
		status, _ := os.ReadFile("/proc/self/status")
		_, after, _ := bytes.Cut(status, []byte("VmHWM:"))
		fmt.Printf("peak %s kB\n", bytes.Fields(after)[0])
		return
	}
	t.Parallel()
	base, _ := newServer(t, fake{list: func(w http.ResponseWriter, _ *http.Request) {
		out := bufio.NewWriter(w)
		io.WriteString(out, strings.TrimSuffix(refList("HEAD"), "0000"))
		for i := range 1_000_000 {
			if _, err := io.WriteString(out, pkt(fmt.Sprintf("%s refs/tags/v%d", someID, i))); err != nil {
				return // refused, as it should be
			}
		}
		io.WriteString(out, "0000")
		out.Flush()
	}})
	cmd := exec.Command(os.Args[0], "-test.run=^TestRefFloodMemory$")
	cmd.Env = append(os.Environ(), "PACKBASE_TEST_FLOOD="+base+"/o/r")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var peak int
	if _, err := fmt.Sscanf(string(out), "peak %d kB", &peak); err != nil {
		t.Fatalf("no peak in %q", out)
	}
	t.Logf("peak %d kB", peak)
	if peak > 64<<10 && !raceEnabled {
		t.Errorf("peak = %d kB, want at most %d", peak, 64<<10)
	}
}

// UP-20.
func TestAnswers(t *testing.T) {
	t.Parallel()
	var bomb bytes.Buffer
	zw := gzip.NewWriter(&bomb)
	io.Copy(zw, io.LimitReader(zeros{}, 4<<20))
	zw.Close()
	list := refList("HEAD")
	status := func(code int, header ...string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(code)
			if code != http.StatusNoContent && code != http.StatusNotModified {
				io.WriteString(w, "<p>\x1b[31m secret internals</p>")
			}
		}
	}
	raw := func(answer string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			conn, out, _ := w.(http.Hijacker).Hijack()
			out.WriteString(answer)
			out.Flush()
			conn.Close()
		}
	}
	head := "HTTP/1.1 200 OK\r\nContent-Type: " + advertisement + "\r\n"
	tests := []struct {
		name   string
		answer func(http.ResponseWriter, *http.Request)
		code   string
		retry  time.Duration
	}{
		{"200 html", status(200, "Content-Type", "text/html; charset=utf-8"), CodeNotGit, 0},
		{"200 dumb", status(200, "Content-Type", "text/plain"), CodeNotGit, 0},
		{"200 wrong service", status(200, "Content-Type", result), CodeNotGit, 0},
		{"204", status(204), CodeNotGit, 0},
		{"206", status(206), CodeNotGit, 0},
		{"301 without location", status(301), CodeRedirect, 0},
		{"304", status(304), CodeRedirect, 0},
		{"400", status(400), CodeRefused, 0},
		{"401", status(401, "WWW-Authenticate", "Basic"), CodeAuth, 0},
		{"403", status(403), CodeAuth, 0},
		{"403 rate limited", status(403, "Retry-After", "9"), CodeRateLimited, 9 * time.Second},
		{"403 rate limit used up", status(403, "X-RateLimit-Remaining", "0"), CodeRateLimited, 0},
		{"404", status(404), CodeNotFound, 0},
		{"410", status(410), CodeNotFound, 0},
		{"408", status(408), CodeUnavailable, 0},
		{"421", status(421), CodeUnavailable, 0},
		{"425", status(425), CodeUnavailable, 0},
		{"429", status(429), CodeRateLimited, 0},
		{"429 with seconds", status(429, "Retry-After", "120"), CodeRateLimited, 2 * time.Minute},
		{"429 with a year", status(429, "Retry-After", "31536000"), CodeRateLimited, MaxRetryAfter},
		{"429 with a far date", status(429, "Retry-After", "Fri, 31 Dec 9999 23:59:59 GMT"), CodeRateLimited, MaxRetryAfter},
		{"429 with a past date", status(429, "Retry-After", "Fri, 31 Dec 1999 23:59:59 GMT"), CodeRateLimited, 0},
		{"429 with nonsense", status(429, "Retry-After", "-1; soon"), CodeRateLimited, 0},
		{"500", status(500), CodeUnavailable, 0},
		{"502", status(502), CodeUnavailable, 0},
		{"503", status(503, "Retry-After", "7"), CodeUnavailable, 7 * time.Second},
		{"gzip bomb", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(bomb.Bytes())
		}, CodeNotGit, 0},
		{"length too long", raw(fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", head, len(list)+9, list[:len(list)-4])), CodeIncomplete, 0},
		{"length too short", raw(fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", head, len(list)-9, list)), CodeIncomplete, 0},
		{"chunks cut", raw(head + "Transfer-Encoding: chunked\r\n\r\n1f\r\n" + list[:31] + "\r\n"), CodeIncomplete, 0},
		{"chunks bad", raw(head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n"), CodeNotGit, 0},
		{"two lengths", raw(head + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n12"), CodeNotGit, 0},
		{"closed at once", raw(""), CodeIncomplete, 0},
		{"garbage", raw("\x1b[31mSSH-2.0-OpenSSH\r\n\r\n"), CodeNotGit, 0},
		{"header flood", raw("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n"), CodeNotGit, 0},
		{"endless 100 continue", raw(strings.Repeat("HTTP/1.1 100 Continue\r\nX: "+strings.Repeat("x", 1000)+"\r\n\r\n", 1000)), CodeNotGit, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			base, c := newServer(t, fake{list: tt.answer})
			_, err := c.Connect(t.Context(), base+"/o/r")
			e := wantCode(t, err, tt.code)
			if e.RetryAfter != tt.retry {
				t.Errorf("retry after = %v, want %v", e.RetryAfter, tt.retry)
			}
			if n, _, _ := strings.Cut(tt.name, " "); e.Status != 0 && strconv.Itoa(e.Status) != n {
				t.Errorf("status = %d, want %s", e.Status, n)
			}
			if strings.Contains(e.Message, "secret internals") {
				t.Errorf("message = %q, want none of the page", e.Message)
			}
			// The same answer to the request for the pack.
			if _, err = fetch(t, fake{pack: tt.answer}, Limits{}); tt.name != "200 wrong service" {
				var e *Error
				if !errors.As(err, &e) {
					t.Errorf("pack: err = %v, want an Error", err)
				}
			}
		})
	}
}

// zeros is an endless reader.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// UP-20, UP-21, on the answer with the pack.
func TestPackAnswers(t *testing.T) {
	t.Parallel()
	data := "PACK\x00\x00\x00\x02\x00\x00\x00\x00" + strings.Repeat("t", 20)
	ok := packHead + band(bandPack, data[:10]) + band(bandPack, "") + band(bandPack, data[10:]) + "0000"
	tests := []struct {
		name, answer, code string
	}{
		{"usual", ok, ""},
		{"progress", packHead + strings.Repeat(band(bandProgress, "\x1b]0;x\a\r"+strings.Repeat("p", 60000)), 170) + band(bandPack, data) + "0000", ""},
		{"nothing", "", CodeIncomplete},
		{"only head", packHead, CodeIncomplete},
		{"cut between packets", strings.TrimSuffix(ok, "0000"), CodeIncomplete},
		{"cut in a packet", ok[:len(ok)-10], CodeIncomplete},
		{"cut in the head", packHead[:20], CodeIncomplete},
		{"garbage", "<html>sorry</html>", CodeNotGit},
		{"no NAK", pkt("shallow "+someID) + "0000" + band(bandPack, data), CodeNotGit},
		{"endless shallow", strings.Repeat(pkt("shallow "+someID), 1<<15), CodeNotGit},
		{"endless NAK", packHead + strings.Repeat(pkt("NAK\n"), 1<<15), CodeNotGit},
		{"endless ACK", packHead + strings.Repeat(pkt("ACK "+someID), 1<<15), CodeNotGit},
		{"unknown channel", packHead + band(7, data), CodeNotGit},
		{"empty packet", packHead + "0004" + band(bandPack, data) + "0000", CodeNotGit},
		{"bad length", packHead + "00zz", CodeNotGit},
		{"ERR", pkt("ERR access denied"), CodeRefused},
		{"ERR without text", "0004ERR denied" + packHead, CodeNotGit},
		{"not our ref", pkt("ERR upload-pack: not our ref " + someID), CodeNoSuchCommit},
		{"jgit's not valid", pkt("ERR want " + someID + " not valid"), CodeNoSuchCommit},
		{"error channel", packHead + band(bandError, "out of memory\n"), CodeRefused},
		{"error channel after data", packHead + band(bandPack, data[:10]) + band(bandError, "aborting"), CodeRefused},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			pack, err := fetch(t, fake{pack: say(tt.answer)}, Limits{})
			if tt.code != "" {
				wantCode(t, err, tt.code)
				return
			}
			if err != nil || string(pack) != data {
				t.Errorf("pack = %q, %v, want %q", pack, err, data)
			}
		})
	}
}

// A status says nothing of what is asked for, but that it is too much at once.
func TestPackStatus(t *testing.T) {
	t.Parallel()
	for code, want := range map[int]string{400: CodeUnavailable, 404: CodeNotFound, 413: CodeRefused, 421: CodeUnavailable, 429: CodeRateLimited, 500: CodeUnavailable} {
		_, err := fetch(t, fake{pack: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }}, Limits{})
		if e := wantCode(t, err, want); e != nil && e.Status != code {
			t.Errorf("status = %d, want %d", e.Status, code)
		}
	}
}

// UP-07: neither an endless pack nor endless progress fills the disk or hangs.
func TestPackFloods(t *testing.T) {
	t.Parallel()
	chunk := strings.Repeat("x", 60000)
	for name, packet := range map[string]string{"pack": band(bandPack, chunk), "progress": band(bandProgress, chunk)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pack, err := fetch(t, fake{pack: func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, packHead)
				for r.Context().Err() == nil {
					io.WriteString(w, packet)
				}
			}}, Limits{PackBytes: 1 << 20})
			wantCode(t, err, CodePackTooLarge)
			if len(pack) > 1<<20 {
				t.Errorf("written = %d, want at most %d", len(pack), 1<<20)
			}
		})
	}
}

// UP-21: what upstream says is shown, but cannot hurt a terminal or tell a secret.
func TestRemoteText(t *testing.T) {
	t.Parallel()
	text := "\x1b[2J\r\nfatal: \xff\u202e token s3cret dXNlcjpzM2NyZXQ= https://u:p@h/x " + strings.Repeat("a", 10_000)
	base, _ := newServer(t, fake{list: say(pkt("ERR " + text))})
	netrc := filepath.Join(t.TempDir(), "netrc")
	if err := os.WriteFile(netrc, []byte("machine 127.0.0.1 login user password s3cret"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := newClient(t, Options{Netrc: netrc}).Connect(t.Context(), base+"/o/r")
	e := wantCode(t, err, CodeRefused)
	for _, secret := range []string{"s3cret", "dXNlcjpzM2NyZXQ=", "u:p"} {
		if strings.Contains(e.Message, secret) {
			t.Errorf("message %q has %q", e.Message, secret)
		}
	}
	if len(e.Message) > 250 || !strings.Contains(e.Message, `\x1b[2J\r\nfatal: \xff\u202e token *** *** https://***@h/x aaa`) {
		t.Errorf("message = %q, want the text, escaped and short", e.Message)
	}
}

// UP-09. Each server stalls, or sends a byte now and then, from one point on.
func TestStalls(t *testing.T) {
	t.Parallel()
	// Only what a case is about is short, so that a busy machine ends in no other deadline.
	const short = 300 * time.Millisecond
	var (
		slowHeader  = Limits{Header: short}
		slowBody    = Limits{Idle: short, MinRate: 1000}
		slowInTotal = Limits{Idle: time.Second, MinRate: 1000, Total: 2 * time.Second}
		slowToBegin = Limits{Begin: short}
	)
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	drip := func(w http.ResponseWriter, r *http.Request, s string) {
		for i := range len(s) {
			io.WriteString(w, s[i:i+1])
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	list := refList("HEAD", "refs/heads/main")
	after := func(prefix, s string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, prefix)
			w.(http.Flusher).Flush()
			drip(w, r, s)
			hang(w, r)
		}
	}
	slow := strings.Repeat(band(bandPack, "x"), 1000)
	keepalive := strings.Repeat(band(bandPack, ""), 1000)
	begun := packHead + band(bandPack, "PACK")
	const header, idle, total, begin = "did not answer in time", "stopped sending", "in all", "did not begin"
	tests := []struct {
		name   string
		limits Limits
		h      http.Handler
		want   string // in the message: which deadline it was
	}{
		{"list header", slowHeader, fake{list: hang}, header},
		{"list, nothing", slowBody, fake{list: after("", "")}, idle},
		{"list, cut short", slowBody, fake{list: after(list[:70], "")}, idle},
		{"list, bytes", slowBody, fake{list: after(list[:70], strings.Repeat("x", 1000))}, idle},
		{"pack header", slowHeader, fake{pack: hang}, header},
		{"pack, nothing", slowBody, fake{pack: after("", "")}, idle},
		{"pack, head", slowBody, fake{pack: after(packHead, "")}, idle},
		{"pack, middle", slowBody, fake{pack: after(begun, "")}, idle},
		{"pack, bytes", slowBody, fake{pack: after(begun, slow)}, idle},
		{"pack, before the end", slowBody, fake{pack: after(begun+strings.Repeat(band(bandPack, strings.Repeat("x", 1000)), 100), "")}, idle},
		{"pack, only keepalives", slowInTotal, fake{pack: after(packHead, keepalive)}, total},
		{"pack, only keepalives at first", slowToBegin, fake{pack: after(packHead, keepalive)}, begin},
		{"pack, byte by byte before it", slowToBegin, fake{pack: after("", strings.Repeat(pkt("shallow "+someID), 100))}, begin},
		{"pack, nothing before it", slowToBegin, fake{pack: after("", "")}, begin},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := fetch(t, tt.h, tt.limits)
			if e := wantCode(t, err, CodeTimeout); !strings.Contains(e.Message, tt.want) {
				t.Errorf("message = %q, want %q", e.Message, tt.want)
			}
		})
	}
	t.Run("connect", func(t *testing.T) {
		t.Parallel()
		_, err := newClient(t, Options{Limits: Limits{Connect: short}}).Connect(t.Context(), "http://"+fullListener(t)+"/o/r")
		wantCode(t, err, CodeUnreachable)
	})
	t.Run("tls", func(t *testing.T) {
		t.Parallel()
		l, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, nobody talks
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, err = newClient(t, Options{Limits: Limits{TLS: short}}).Connect(t.Context(), "https://"+l.Addr().String()+"/o/r")
		wantCode(t, err, CodeTimeout)
	})
	t.Run("caller", func(t *testing.T) {
		t.Parallel()
		base, c := newServer(t, fake{list: hang})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := c.Connect(ctx, base+"/o/r")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("err = %v, want the caller's deadline", err)
		}
	})
}

// Keepalives hold a session while upstream counts objects, and the wait does
// not count against the rate of the pack after it.
func TestSlowStart(t *testing.T) {
	t.Parallel()
	data := strings.Repeat("x", 3000)
	pack, err := fetch(t, fake{pack: func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, packHead)
		for range 7 {
			io.WriteString(w, band(bandPack, ""))
			w.(http.Flusher).Flush()
			time.Sleep(100 * time.Millisecond) // a slow server, not a wait of the test
		}
		for i := 0; i < len(data); i += 1000 {
			io.WriteString(w, band(bandPack, data[i:i+1000]))
			w.(http.Flusher).Flush()
			time.Sleep(200 * time.Millisecond)
		}
		io.WriteString(w, "0000")
	}}, Limits{Idle: 600 * time.Millisecond, MinRate: 8000})
	if err != nil || string(pack) != data {
		t.Errorf("pack = %d bytes, %v, want %d", len(pack), err, len(data))
	}
}

// fullListener returns an address that takes no more connections.
func fullListener(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", sa.(*syscall.SockaddrInet4).Port)
	for {
		conn, err := net.DialTimeout("tcp", address, 100*time.Millisecond)
		if err != nil {
			return address
		}
		t.Cleanup(func() { conn.Close() })
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	_, err = newClient(t, Options{}).Connect(t.Context(), "http://"+address+"/o/r")
	if e := wantCode(t, err, CodeUnreachable); e.fault().Final {
		t.Error("refused connection is not temporary")
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	srv := httptest.NewTLSServer(listHandler("HEAD"))
	defer srv.Close()
	c := newClient(t, Options{})
	_, err := c.Connect(t.Context(), srv.URL+"/o/r")
	wantCode(t, err, CodeTLS)

	plain, _ := newServer(t, listHandler("HEAD"))
	_, err = c.Connect(t.Context(), strings.Replace(plain, "http:", "https:", 1)+"/o/r")
	wantCode(t, err, CodeTLS)

	connect(t, trusting(t, Options{}, srv), srv.URL+"/o/r")
}

// trusting returns a client that trusts the certificate of srv.
func trusting(t testing.TB, o Options, srv *httptest.Server) *Client {
	t.Helper()
	c := newClient(t, o)
	c.base.TLSClientConfig = srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	if c.base.TLSClientConfig.RootCAs == nil {
		c.base.TLSClientConfig.RootCAs = x509.NewCertPool()
	}
	return c
}

// EG-03, EG-06.
func TestRedirects(t *testing.T) {
	t.Parallel()
	const listPath, packPath = "/info/refs", "/git-upload-pack"
	var mu sync.Mutex
	var log []string // scheme, path and user of the requests that a repository got
	seen := func(scheme string) http.Handler {
		good := fake{pack: say(packHead + band(bandPack, "PACK") + "0000")}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			// /to/STATUS/TARGET... redirects to TARGET, where "scheme:" goes for its server.
			mu.Lock()
			user, _, _ := r.BasicAuth()
			log = append(log, scheme+" "+r.URL.Path+" "+user)
			mu.Unlock()
			good.ServeHTTP(w, r)
		})
	}
	plain := httptest.NewServer(seen("http"))
	defer plain.Close()
	secure := httptest.NewTLSServer(seen("https"))
	defer secure.Close()
	closed, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer closed.Close()
	var canary atomic.Int32
	go func() {
		for conn, err := closed.Accept(); err == nil; conn, err = closed.Accept() {
			canary.Add(1)
			conn.Close()
		}
	}()

	for _, status := range []int{301, 302, 303, 307, 308} {
		tests := []struct {
			name   string
			secure bool                     // the first server speaks https
			hops   func(path string) string // where a request for path is sent; "" for an answer
			code   string
			wantTo string // scheme and path of the request for the pack
			creds  bool   // that request has credentials
		}{
			{"adding .git", false, func(p string) string {
				if strings.HasPrefix(p, "/o/r/") {
					return strings.Replace(p, "/o/r/", "/o/r.git/", 1)
				}
				return ""
			}, "", "http /o/r.git" + packPath, true},
			{"other server", false, func(string) string { return plain.URL + "/x" + listPath }, "", "http /x" + packPath, false},
			{"to https", false, func(string) string { return secure.URL + "/x" + listPath }, "", "https /x" + packPath, false},
			{"to http", true, func(string) string { return plain.URL + "/x" + listPath }, CodeRedirect, "", false},
			{"to private", false, func(string) string { return "http://" + closed.Addr().String() + "/x" + listPath }, CodeAddress, "", false},
			{"to file", false, func(string) string { return "file:///etc/passwd" + listPath }, CodeRedirect, "", false},
			{"to ssh", false, func(string) string { return "ssh://h/o/r" + listPath }, CodeRedirect, "", false},
			{"to a user", false, func(string) string { return "http://u:p@" + plain.Listener.Addr().String() + "/x" + listPath }, CodeRedirect, "", false},
			{"to a login page", false, func(string) string { return "/login" }, CodeRedirect, "", false},
			{"to nonsense", false, func(string) string { return "http://[::1" + listPath }, CodeRedirect, "", false},
			{"loop", false, func(p string) string { return p }, CodeRedirect, "", false},
			{"three hops", false, hops(3), "", "http /3" + packPath, true},
			{"four hops", false, hops(4), CodeRedirect, "", false},
			{"twenty hops", false, hops(20), CodeRedirect, "", false},
			{"of the pack", false, func(p string) string {
				if strings.HasSuffix(p, packPath) {
					return "/x" + packPath
				}
				return ""
			}, CodeRedirect, "", false},
		}
		for _, tt := range tests {
			name := fmt.Sprintf("%d %s", status, tt.name)
			h := seen("http")
			first := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Refresh", "0; url=http://"+closed.Addr().String())
				if to := tt.hops(r.URL.Path); to != "" {
					w.Header().Set("Location", to+"?"+r.URL.RawQuery)
					w.WriteHeader(status)
					return
				}
				if _, _, known := r.BasicAuth(); tt.creds && !known {
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				h.ServeHTTP(w, r)
			}))
			if tt.secure {
				first.StartTLS()
			} else {
				first.Start()
			}
			netrc := filepath.Join(t.TempDir(), "netrc")
			_, port, _ := net.SplitHostPort(first.Listener.Addr().String())
			os.WriteFile(netrc, fmt.Appendf(nil, "machine 127.0.0.1:%s login me password x\nmachine 127.0.0.1 login wrong password y", port), 0o600)

			log = nil
			c := trusting(t, Options{Allow: parse(t, "127.0.0.1/32"), Netrc: netrc}, secure)
			s, err := c.Connect(t.Context(), first.URL+"/o/r")
			if err == nil {
				err = s.FetchPack(t.Context(), []gitpack.OID{oid(t, someID)}, io.Discard, nil)
			}
			var e *Error
			switch {
			case tt.code != "" && (!errors.As(err, &e) || e.Code != tt.code):
				t.Errorf("%s: err = %v, want %s", name, err, tt.code)
			case tt.code == "" && err != nil:
				t.Errorf("%s: %v", name, err)
			case tt.code == "":
				want := tt.wantTo + " "
				if tt.creds {
					want += "me"
				}
				if got := log[len(log)-1]; got != want {
					t.Errorf("%s: pack asked for as %q, want %q", name, got, want)
				}
			}
			for _, line := range log {
				if !tt.creds && tt.name != "of the pack" && !strings.HasSuffix(line, " ") {
					t.Errorf("%s: credentials went along: %q", name, line)
				}
			}
			c.base.CloseIdleConnections()
			first.Close()
		}
	}
	if n := canary.Load(); n > 0 {
		t.Errorf("connections to a closed address = %d, want 0", n)
	}
}

// hops redirects n times on the same server.
func hops(n int) func(path string) string {
	return func(path string) string {
		i := 0
		fmt.Sscanf(path, "/%d/", &i)
		if i == n || strings.HasSuffix(path, "/git-upload-pack") {
			return ""
		}
		return fmt.Sprintf("/%d/info/refs", i+1)
	}
}

// EG-06.
func TestCredentials(t *testing.T) {
	t.Parallel()
	var user atomic.Value
	var private atomic.Bool
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, password, known := r.BasicAuth()
		user.Store(name + ":" + password)
		if private.Load() && !known {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		listHandler("HEAD").ServeHTTP(w, r)
	})
	plain := httptest.NewServer(h)
	defer plain.Close()
	secure := httptest.NewTLSServer(h)
	defer secure.Close()
	port := func(url string) string { return url[strings.LastIndex(url, ":")+1:] }
	name := func(url string) string { return strings.Replace(url, "127.0.0.1", "localhost", 1) }
	tests := []struct {
		name, url, allow, netrc, want string
	}{
		{"https", secure.URL, "127.0.0.0/8", "machine 127.0.0.1 login a password b", "a:b"},
		{"https, port", secure.URL, "127.0.0.0/8", "machine 127.0.0.1:" + port(secure.URL) + " login a password b\nmachine 127.0.0.1 login c password d", "a:b"},
		{"other port", secure.URL, "127.0.0.0/8", "machine 127.0.0.1:1 login a password b", ":"},
		{"other host", secure.URL, "127.0.0.0/8", "machine 127.0.0.2 login a password b", ":"},
		{"part of the host", secure.URL, "127.0.0.0/8", "machine 7.0.0.1 login a password b machine 127.0.0 login a password b", ":"},
		{"default", secure.URL, "127.0.0.0/8", "default login a password b", ":"},
		{"no file contents", secure.URL, "127.0.0.0/8", "", ":"},
		{"http to an allowed address", plain.URL, "127.0.0.0/8", "machine 127.0.0.1 login a password b", "a:b"},
		{"http to an allowed host", name(plain.URL), "localhost:" + port(plain.URL), "machine localhost login a password b", "a:b"},
		{"http to a name with an allowed address", name(plain.URL), "127.0.0.0/8,::1/128", "machine localhost login a password b", ":"},
	}
	for _, tt := range tests { // in order: they share the server's note
		netrc := filepath.Join(t.TempDir(), "netrc")
		if err := os.WriteFile(netrc, []byte(tt.netrc), 0o600); err != nil {
			t.Fatal(err)
		}
		c := trusting(t, Options{Allow: parse(t, tt.allow), Netrc: netrc}, secure)
		// What is shown to strangers is asked for as one.
		private.Store(false)
		broker, through := throughBroker(t, c, tt.url)
		through.base.TLSClientConfig = c.base.TLSClientConfig
		for _, c := range []*Client{c, through} {
			private.Store(false)
			public := connect(t, c, tt.url+"/o/r")
			if user.Load() != ":" || broker.Gave() {
				t.Errorf("%s: to a public repository credentials = %q, given %v", tt.name, user.Load(), broker.Gave())
			}
			private.Store(true)
			s, err := c.Connect(t.Context(), tt.url+"/o/r")
			if known := tt.want != ":"; known != (err == nil) || known && s.Digest == public.Digest {
				t.Errorf("%s: err = %v, with credentials %v", tt.name, err, known)
			}
			if got := user.Load(); got != tt.want {
				t.Errorf("%s: credentials = %q, want %q", tt.name, got, tt.want)
			}
		}
		if known := tt.want != ":"; known != broker.Gave() {
			t.Errorf("%s: the broker says that it gave credentials: %v", tt.name, !known)
		}
		resp, err := c.HTTP().Get(tt.url + "/info/refs")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := user.Load(); got != tt.want {
			t.Errorf("%s: credentials of a download = %q, want %q", tt.name, got, tt.want)
		}
	}

	netrc := filepath.Join(t.TempDir(), "netrc")
	c := trusting(t, Options{Netrc: netrc}, secure)
	_, err := c.Connect(t.Context(), secure.URL+"/o/r")
	if e := wantCode(t, err, CodeAuth); strings.Contains(e.Message, netrc) {
		t.Errorf("message %q tells a path", e.Message)
	}
	for _, password := range []string{"one", "two"} { // re-read when it changes
		os.WriteFile(netrc, []byte("machine 127.0.0.1 login a password "+password), 0o600)
		connect(t, c, secure.URL+"/o/r")
		if got := user.Load(); got != "a:"+password {
			t.Errorf("credentials = %q, want password %q", got, password)
		}
	}
}

// throughBroker returns a client that dials and logs in by way of the broker of another one.
func throughBroker(t *testing.T, c *Client, rawURL string) (*Broker, *Client) {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	broker, err := c.Broker(u)
	if err != nil {
		t.Fatal(err)
	}
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "broker")
		conn, err := net.FileConn(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		ends[i] = conn.(*net.UnixConn)
	}
	go broker.Serve(t.Context(), ends[0])
	var o Options
	o.Through(ends[1])
	return broker, newClient(t, o)
}

func TestParseNetrc(t *testing.T) {
	t.Parallel()
	const text = `# a comment with machine x login y
machine One.example.org
	login a
	password p#1
macdef init
machine evil login e password e

machine two.example.org:8443 account x login b password c
machine one.example.org login late password late
default login d password d
machine three login`
	got := parseNetrc(text)
	want := map[string]Login{
		"one.example.org":      {"a", "p#1"},
		"two.example.org:8443": {"b", "c"},
		"three":                {},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("logins = %v, want %v", got, want)
	}
}

// The download client obeys the redirect rules and reports errors alike.
func TestHTTP(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.HandleFunc("/catalog", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.UserAgent()) })
	mux.Handle("/moved", http.RedirectHandler("/catalog", http.StatusFound))
	mux.Handle("/loop", http.RedirectHandler("/loop", http.StatusFound))
	mux.HandleFunc("/missing", http.NotFound)
	mux.HandleFunc("/stall", func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	base, _ := newServer(t, mux)
	c := newClient(t, Options{UserAgent: "agent/1", Limits: Limits{Idle: 100 * time.Millisecond}}).HTTP()
	resp, err := c.Get(base + "/moved")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if string(body) != "agent/1" || err != nil {
		t.Errorf("body = %q, %v, want agent/1", body, err)
	}
	_, err = c.Get(base + "/loop")
	wantCode(t, err, CodeRedirect)
	_, err = c.Post(base+"/moved", "text/plain", nil)
	wantCode(t, err, CodeRedirect)
	_, err = c.Get("http://10.0.0.1/catalog")
	wantCode(t, err, CodeAddress)
	resp, err = c.Get(base + "/missing")
	if err != nil || resp.StatusCode != http.StatusNotFound {
		t.Fatalf("missing: %v, %v, want status 404", resp, err)
	}
	resp.Body.Close()
	resp, err = c.Get(base + "/stall")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	_, err = io.ReadAll(resp.Body)
	wantCode(t, err, CodeTimeout)
}

// A token that who asks adds is for the server that is asked, as the credentials of a netrc file are: a redirect takes it
// to no other one, nor to another port of the same.
func TestTokenOfWhoAsks(t *testing.T) {
	t.Parallel()
	echo := func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Header.Get("Authorization")) }
	other, _ := newServer(t, http.HandlerFunc(echo))
	mux := http.NewServeMux()
	mux.HandleFunc("/here", echo)
	mux.Handle("/moved", http.RedirectHandler("/here", http.StatusFound))
	mux.Handle("/away", http.RedirectHandler(other+"/there", http.StatusFound))
	base, _ := newServer(t, mux)
	c := newClient(t, Options{}).HTTP()
	for path, want := range map[string]string{"/here": "Bearer secret", "/moved": "Bearer secret", "/away": ""} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer secret")
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(got) != want || err != nil {
			t.Errorf("%s: sent %q, %v, want %q", path, got, err, want)
		}
	}
}

// UP-22: what the filter lets through, go-git takes, and is what it should be.
func FuzzRefList(f *testing.F) {
	f.Add([]byte(refList("HEAD", "refs/heads/main", "refs/tags/v1", "refs/tags/v1^{}", "refs/tags/-x", "refs/pull/1/head")))
	f.Add([]byte(refList("refs/tags/.x", "refs/tags/.x^{}")))
	f.Add([]byte(pkt("# service=git-upload-pack\n") + "00000000"))
	f.Fuzz(func(t *testing.T, list []byte) {
		g := &guard{next: &roundTripper{}, limits: Limits{Refs: 100}}
		filter := newRefFilter(g, io.NopCloser(bytes.NewReader(list)))
		clean, err := io.ReadAll(filter)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || g.failure() != err {
				t.Fatalf("err = %v, want a remembered Error", err)
			}
			return
		}
		adv := packp.NewAdvRefs()
		if err := adv.Decode(bytes.NewReader(clean)); err != nil && err != packp.ErrEmptyAdvRefs {
			t.Fatalf("go-git: %v\n%q", err, clean)
		}
		if len(adv.References) > 100 {
			t.Errorf("refs = %d, want at most 100", len(adv.References))
		}
		for name := range adv.References {
			if badRefName(name) != "" {
				t.Errorf("%q: %s", name, badRefName(name))
			}
		}
	})
}

// UP-22: of whatever answers a request for a pack comes the pack that is in it,
// to its end, or an Error.
func FuzzPackAnswer(f *testing.F) {
	f.Add([]byte(packHead + band(bandPack, "PACK") + band(bandProgress, "half\r") + band(bandPack, "") + band(bandPack, "rest") + "0000"))
	f.Add([]byte(packHead + band(bandPack, "PACK") + band(bandError, "out of memory")))
	f.Add([]byte(pkt("shallow "+someID) + pkt("unshallow "+someID) + "0000" + pkt("ACK "+someID+"\n") + band(bandPack, "PACK") + "0000"))
	f.Add([]byte(pkt("ERR upload-pack: not our ref " + someID)))
	var answer []byte
	base, _ := newServer(f, fake{pack: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(answer) }})
	s, err := newClient(f, Options{Limits: Limits{PackBytes: 1 << 20}}).Connect(f.Context(), base+"/o/r")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		answer = b
		var pack bytes.Buffer
		err := s.FetchPack(t.Context(), []gitpack.OID{oid(t, someID)}, &pack, nil)
		if err != nil {
			if e := (*Error)(nil); !errors.As(err, &e) {
				t.Fatalf("err = %v, want an Error", err)
			}
			return
		}
		if want, ok := packIn(string(b)); !ok || pack.String() != want {
			t.Errorf("pack = %q, want %q, whole: %t", pack.Bytes(), want, ok)
		}
	})
}

// packIn returns the pack that is multiplexed in an answer, and whether its end is told.
func packIn(answer string) (pack string, whole bool) {
	begun := false
	for len(answer) >= 4 {
		n, err := strconv.ParseUint(answer[:4], 16, 16)
		if n == 0 && err == nil && begun {
			return pack, true
		}
		n = max(n, 4)
		if err != nil || n > uint64(len(answer)) {
			return pack, false
		}
		line := answer[4:n]
		answer = answer[n:]
		switch {
		case begun && strings.HasPrefix(line, "\x01"):
			pack += line[1:]
		case strings.HasPrefix(line, "NAK"), strings.HasPrefix(line, "ACK"):
			begun = true
		}
	}
	return pack, false
}
