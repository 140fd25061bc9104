// Package client has the commands of those who use a running packbase: what
// they ask its API, and how the answers look.
package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/francescobianco/packbase/api/route"
	"github.com/francescobianco/packbase/api/wire"
	"github.com/francescobianco/packbase/cmd/packbase/term"
	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/logbook"
	"github.com/francescobianco/packbase/storage/name"
	"github.com/francescobianco/packbase/storage/strangejson"
	"github.com/francescobianco/packbase/storage/userfile"
)

// Limits of a client.
const (
	connectTimeout = 5 * time.Second
	callTimeout    = 30 * time.Second // one answer that comes at once
	maxAnswer      = 64 << 20         // bytes; a package with 20,000 tags answers 20 MB
)

// A program is one run of a command that asks a server.
type program struct{ *term.Program }

// Commands returns the commands that ask a server.
func Commands(run *term.Program) []*cobra.Command {
	p := &program{run}
	return []*cobra.Command{p.fetchCommand(), p.updateCommand(), p.listCommand(), p.searchCommand(), p.infoCommand(), p.checkCommand(),
		p.reviewCommand(), p.visibilityCommand(), p.removeCommand(), p.renameCommand(), p.tokenCommand(), p.jobsCommand(), p.statusCommand(), p.runCommand(), p.envCommand(),
		p.captureCommand(), p.treeCommand(), p.warmCommand(), p.bundleCommand(), p.trustCommand(), p.compareCommand()}
}

// A remote is the flags of a command that asks a server.
type remote struct {
	url, token, tokenFile string
	json                  bool
}

const DefaultURL = "http://127.0.0.1:8080"

func (p *program) addRemote(cmd *cobra.Command) *remote {
	r := &remote{}
	cmd.GroupID = "use"
	f := cmd.Flags()
	f.StringVar(&r.url, "url", "", "where the server is [PACKBASE_URL] (default "+DefaultURL+")")
	f.StringVar(&r.token, "token", "", "token, for writes and for private packages [PACKBASE_TOKEN]")
	f.StringVar(&r.tokenFile, "token-file", "", "file with the token [PACKBASE_TOKEN_FILE] (default $PACKBASE_ROOT/token, for a server on this machine)")
	f.BoolVar(&r.json, "json", false, "print what the server answers, as it is")
	return r
}

// A client asks one server. It is safe for concurrent use.
type client struct {
	base  *url.URL
	token string // "" for none
	agent string // what the server is told that we are
	http  *http.Client
}

func (p *program) client(r *remote) (*client, error) {
	base, err := parseBase(cmp.Or(r.url, p.Getenv("PACKBASE_URL"), DefaultURL))
	if err != nil {
		return nil, err
	}
	token, err := p.clientToken(r, base)
	if err != nil {
		return nil, err
	}
	return newClient(base, token, p.Release), nil
}

func newClient(base *url.URL, token, release string) *client {
	transport := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: connectTimeout}).DialContext,
		TLSHandshakeTimeout:    connectTimeout,
		MaxResponseHeaderBytes: 64 << 10,
		IdleConnTimeout:        time.Minute,
		ForceAttemptHTTP2:      true,
	}
	return &client{base: base, token: token, agent: "packbase/" + release, http: &http.Client{
		Transport: transport,
		// A redirect would turn POST into GET, or carry the token elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func parseBase(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		// What is wrong may be a password in it.
		return nil, term.Usage("PACKBASE_URL: want the address of a server, as in %s", DefaultURL)
	}
	u.Path = strings.TrimRight(u.Path, "/")
	u.RawPath = ""
	return u, nil
}

// clientToken finds the token: as given, or where `packbase up` on this
// machine keeps it.
func (p *program) clientToken(r *remote, base *url.URL) (string, error) {
	if r.token != "" && r.tokenFile != "" {
		return "", term.Usage("--token and --token-file cannot be used together")
	}
	if r.tokenFile == "" {
		if token := cmp.Or(r.token, p.Getenv("PACKBASE_TOKEN")); token != "" {
			return checkToken(token, "PACKBASE_TOKEN")
		}
	}
	file := cmp.Or(r.tokenFile, p.Getenv("PACKBASE_TOKEN_FILE"))
	given := file != ""
	if !given {
		if !isLoopback(base.Hostname()) {
			return "", nil
		}
		file = filepath.Join(cmp.Or(p.Getenv("PACKBASE_ROOT"), "data"), "token")
	}
	b, err := userfile.Read(file, userfile.MaxText)
	switch {
	case err == nil:
		return checkToken(string(b), file)
	case !given && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)):
		return "", nil
	}
	return "", term.Usage("read token: %w", err)
}

// checkToken refuses what no HTTP header can carry.
func checkToken(text, from string) (string, error) {
	token := strings.TrimSpace(text)
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", term.Usage("%s: not a token: want one word of ASCII", from)
	}
	return token, nil
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// url returns where path is, escaped as it is given, on the server.
func (c *client) url(path string, query url.Values) string {
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return c.base.String() + path
}

// query returns the parameters, name and value by turns, that have a value.
func query(pairs ...string) url.Values {
	q := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	return q
}

func (c *client) get(ctx context.Context, path string, query url.Values) ([]byte, error) {
	return c.call(ctx, http.MethodGet, path, query, nil, callTimeout)
}

func (c *client) post(ctx context.Context, path string, in any) ([]byte, error) {
	return c.call(ctx, http.MethodPost, path, nil, in, callTimeout)
}

// logFile returns a file of the server's log, or a proof.
func (c *client) logFile(ctx context.Context, path string) ([]byte, error) {
	return c.callUpTo(ctx, logbook.MaxFile, http.MethodGet, path, nil, nil, callTimeout)
}

// call returns the body of the answer to one request, when its status is 2xx.
// Otherwise the error is an *answerError, or an *awayError when the server
// does not answer within timeout.
func (c *client) call(ctx context.Context, method, path string, query url.Values, in any, timeout time.Duration) ([]byte, error) {
	return c.callUpTo(ctx, maxAnswer, method, path, query, in, timeout)
}

// callUpTo is call for an answer of at most so many bytes.
func (c *client) callUpTo(ctx context.Context, most int64, method, path string, query url.Values, in any, timeout time.Duration) ([]byte, error) {
	short, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	body, err := c.exchange(short, most, method, path, query, in)
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = &AwayError{c.base, fmt.Errorf("no answer within %s", timeout)}
	}
	return body, err
}

func (c *client) exchange(ctx context.Context, most int64, method, path string, query url.Values, in any) ([]byte, error) {
	res, err := c.send(ctx, method, path, query, in)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, most+1))
	if err != nil {
		return nil, &AwayError{c.base, err}
	}
	if int64(len(body)) > most {
		return nil, fmt.Errorf("the answer of %s is larger than %s", c.base, term.Size(most))
	}
	if res.StatusCode/100 != 2 {
		return nil, newAnswerError(res, body)
	}
	return body, nil
}

// send returns the answer to one request, whatever its status.
func (c *client) send(ctx context.Context, method, path string, query url.Values, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.url(path, query), body)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("User-Agent", c.agent)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" { // reads need it, too, where packages are private
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	res, err := c.http.Do(req)
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = &AwayError{c.base, wrapped.Err}
	}
	return res, err
}

// silence is how long a server may send nothing of a long answer. An edge may have to get a package from its central first.
const silence = 10 * time.Minute

// listen is send for an answer that may take hours, of a server that is not silent for longer than most.
func (c *client) listen(ctx context.Context, most time.Duration, method, path string, in any) (*http.Response, error) {
	ctx, stop := context.WithCancelCause(ctx)
	silent := &AwayError{c.base, fmt.Errorf("nothing came for %s", most)}
	l := &listener{ctx: ctx, stop: stop, most: most, timer: time.AfterFunc(most, func() { stop(silent) })}
	res, err := c.send(ctx, method, path, nil, in)
	l.timer.Stop()
	if err != nil {
		return nil, l.cause(err)
	}
	l.ReadCloser, res.Body = res.Body, l
	return res, nil
}

// A listener is the body of what listen returns.
type listener struct {
	io.ReadCloser
	ctx   context.Context // of this one request
	stop  context.CancelCauseFunc
	most  time.Duration
	timer *time.Timer // runs while something is waited for
}

func (l *listener) Read(p []byte) (int, error) {
	l.timer.Reset(l.most)
	n, err := l.ReadCloser.Read(p)
	l.timer.Stop()
	return n, l.cause(err)
}

// cause returns why the request was given up, if it was.
func (l *listener) cause(err error) error {
	if cause := context.Cause(l.ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

func (l *listener) Close() error {
	l.timer.Stop()
	l.stop(nil)
	return l.ReadCloser.Close()
}

// AskReady asks a packbase what it depends on, and whether it is ready. An
// answer that is not a packbase's is an error.
func AskReady(ctx context.Context, base *url.URL, release string, timeout time.Duration) (ready wire.Ready, err error) {
	raw, err := newClient(base, "", release).call(ctx, http.MethodGet, route.Ready, nil, nil, timeout)
	var answer *AnswerError
	if errors.As(err, &answer) {
		raw, err = answer.body, nil
	}
	if err != nil {
		return ready, err
	}
	ready, err = decode[wire.Ready](raw)
	if err == nil && ready.Dependencies == nil {
		err = errors.New("that is no packbase")
	}
	return ready, err
}

// An AwayError says that the server did not answer.
type AwayError struct {
	base *url.URL
	err  error
}

func (e *AwayError) Error() string {
	return fmt.Sprintf("%s does not answer: %v\nIs a packbase running there? `packbase up` starts one here; PACKBASE_URL or --url names another.", e.base, e.err)
}

// isOffline reports whether there is nobody to ask, or nobody who is trusted.
func isOffline(err error) bool {
	var away *AwayError
	return errors.As(err, &away) || errors.Is(err, errUntrusted)
}

func (e *AwayError) Unwrap() error { return e.err }

// An AnswerError is an answer that is not 2xx.
type AnswerError struct {
	Status     int
	Code       string // of the API; "" if something else answered
	Message    string
	RequestID  string
	JobID      string // the job that failed, if one did
	Package    string // that is not there
	RetryAfter time.Duration
	body       []byte // as it came
}

func newAnswerError(res *http.Response, body []byte) *AnswerError {
	e := &AnswerError{Status: res.StatusCode, body: body}
	var in wire.Error
	if strangejson.Unmarshal(body, &in) == nil {
		e.Code, e.Message = in.Code, term.Printable(in.Message)
		e.JobID, e.RequestID = term.Printable(in.JobID), term.Printable(in.RequestID)
		if in.Package != "" {
			e.Package, e.Message = in.Package, fmt.Sprintf("there is no package %q here", in.Package)
		}
	}
	if seconds, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil {
		e.RetryAfter = time.Duration(seconds) * time.Second
	}
	if to := res.Header.Get("Location"); e.Code == "" && res.StatusCode/100 == 3 {
		e.Message = term.Printable(fmt.Sprintf("the server is elsewhere: it sent %q; set PACKBASE_URL", to))
	}
	if e.Message == "" {
		e.Message = fmt.Sprintf("the server answered %d %s, and no reason", res.StatusCode, http.StatusText(res.StatusCode))
	}
	return e
}

func (e *AnswerError) Error() string {
	return withAdvice(e.Message, e.advice())
}

func (e *AnswerError) advice() string {
	advice := fault.Advice(e.Code)
	switch {
	case e.Code == "not_found" && e.Package == "": // the message says of what there is a list
		return ""
	case advice != "":
		return advice
	case e.RetryAfter > 0:
		return "Try again in " + e.RetryAfter.String() + "."
	case e.Status >= 500 && e.RequestID != "":
		return "The server's log has more under " + e.RequestID + "."
	}
	return ""
}

func withAdvice(message, advice string) string {
	if advice == "" {
		return message
	}
	return message + "\n" + advice
}

// decode reads an answer. Fields that it does not know are ignored: the
// server may be newer.
func decode[T any](raw []byte) (T, error) {
	var v T
	if err := strangejson.Unmarshal(raw, &v); err != nil {
		return v, fmt.Errorf("read answer: %w; is there really a packbase at PACKBASE_URL?", err)
	}
	return v, nil
}

// show writes an answer: with --json as it is, errors included, else as draw
// explains it.
func show[T any](p *program, r *remote, raw []byte, err error, draw func(*term.Screen, T)) error {
	var answer *AnswerError
	if r.json && errors.As(err, &answer) {
		p.Stdout.Write(answer.body)
	}
	if err != nil {
		return err
	}
	if r.json {
		_, err := p.Stdout.Write(raw)
		return err
	}
	v, err := decode[T](raw)
	if err != nil {
		return err
	}
	draw(p.Screen(p.Stdout), v)
	return nil
}

// packageArg checks a package name before it becomes part of a path.
func packageArg(pkg string) error {
	if err := name.ValidPackage(pkg); err != nil {
		return term.Usage("%w", err)
	}
	return nil
}
