package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-git/go-git/v5/plumbing/transport"

	"github.com/francescobianco/packbase/storage/fault"
)

// Codes of an [Error].
const (
	CodeURL             = "upstream_url"            // not a URL that is fetched from
	CodeAddress         = "upstream_address"        // private address or forbidden port, not dialled
	CodeUnreachable     = "upstream_unreachable"    // no such host, refused, no answer to connect
	CodeTLS             = "upstream_tls"            // the certificate or the handshake is wrong
	CodeTimeout         = "upstream_timeout"        // a deadline passed, or it was too slow
	CodeNotFound        = "upstream_not_found"      // 404, 410
	CodeAuth            = "upstream_auth"           // 401, 403, or no credentials where some are configured
	CodeRateLimited     = "upstream_rate_limited"   // 429
	CodeUnavailable     = "upstream_unavailable"    // 5xx, or another status that promises more for later, or is no verdict on what was asked for
	CodeRefused         = "upstream_refused"        // another 4xx, or an error told in the protocol
	CodeNotGit          = "upstream_not_git"        // something answers, but not a smart Git server
	CodeRedirect        = "upstream_redirect"       // redirects that are not followed
	CodeUnsupported     = "upstream_unsupported"    // a Git server that cannot do what is needed
	CodeNoSuchCommit    = "upstream_no_such_commit" // it does not have or not give out a wanted object
	CodeIncomplete      = "upstream_incomplete"     // cut before the end
	CodeTooManyRefs     = "too_many_refs"           // Limits.Refs
	CodeRefListTooLarge = "ref_list_too_large"      // Limits.RefListBytes
	CodePackTooLarge    = "pack_too_large"          // Limits.PackBytes
)

// MaxRetryAfter is the longest wait that upstream can ask for.
const MaxRetryAfter = time.Hour

// An Error is what upstream did, or would have made us do, wrong.
type Error struct {
	Code       string        // one of the Code constants
	Message    string        // for people: what happened and what to do; printable, one line
	Status     int           // HTTP status, where one made the error; else 0
	RetryAfter time.Duration // what upstream asked for, at most MaxRetryAfter; else 0
	passing    bool          // although its code is final
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Unwrap returns the error as jobs end with it.
func (e *Error) Unwrap() error { return e.fault() }

func (e *Error) fault() *fault.Error {
	f := fault.New(e.Code, e.Message)
	f.Final, f.RetryAfter = f.Final && !e.passing, e.RetryAfter
	return f
}

// Closed returns the error of an upstream that wants credentials and gets none.
func Closed() error { return statusError(&http.Response{StatusCode: http.StatusUnauthorized}) }

// statusError judges the status of an answer that is not a redirect.
func statusError(resp *http.Response) *Error {
	e := &Error{Status: resp.StatusCode, RetryAfter: retryAfter(resp.Header.Get("Retry-After"), time.Now())}
	// GitHub tells that a limit is used up with 403, too.
	limited := e.RetryAfter > 0 || resp.Header.Get("X-Ratelimit-Remaining") == "0"
	switch code := resp.StatusCode; {
	case code == http.StatusOK:
		return nil
	case code == http.StatusTooManyRequests, code == http.StatusForbidden && limited:
		e.Code = CodeRateLimited
		e.Message = "upstream limits how often it is asked"
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		e.Code = CodeAuth
		e.Message = "upstream refuses access: the repository does not exist or is private; check the URL, or put credentials for its host into the netrc file (PACKBASE_NETRC)"
	case code == http.StatusNotFound, code == http.StatusGone:
		e.Code = CodeNotFound
		e.Message = "upstream has no such repository, or hides it; check the URL"
	case code >= 500, code == http.StatusRequestTimeout, code == http.StatusMisdirectedRequest, code == http.StatusTooEarly: // of these three, too, the same request may do later
		e.Code = CodeUnavailable
		e.Message = "upstream is out of order"
	case code >= 400:
		e.Code, e.Message = CodeRefused, "upstream refuses the request"
	case code >= 300:
		e.Code, e.Message = CodeRedirect, "upstream answers with a redirect to nowhere"
	default:
		e.Code, e.Message = CodeNotGit, "upstream does not answer as a Git server; check the URL"
	}
	e.Message += fmt.Sprintf(" (HTTP status %d)", e.Status)
	return e
}

// retryAfter reads the header of that name: seconds or a date. RFC 9110,
// section 10.2.3.
func retryAfter(v string, now time.Time) time.Duration {
	var d time.Duration
	if n, err := strconv.ParseUint(v, 10, 32); err == nil {
		d = time.Duration(n) * time.Second
	} else if t, err := http.ParseTime(v); err == nil {
		d = t.Sub(now)
	}
	return min(max(d, 0), MaxRetryAfter)
}

// netError gives a code to an error of the network under a request made with
// ctx. The end of the caller's own context stays what it is.
func netError(ctx context.Context, err error) error {
	var known *Error
	if errors.As(err, &known) || errors.As(context.Cause(ctx), &known) {
		return known
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if e := tlsError(err); e != nil {
		return e
	}
	var dns *net.DNSError
	var op *net.OpError
	var timeout net.Error
	switch {
	case errors.As(err, &dns):
		return &Error{Code: CodeUnreachable, Message: "the upstream host name does not resolve; check the URL and the name server"}
	case errors.As(err, &op) && op.Op == "dial":
		reason := "it does not answer"
		if errors.Is(err, syscall.ECONNREFUSED) {
			reason = "it refuses the connection"
		}
		return &Error{Code: CodeUnreachable, Message: "cannot connect to upstream: " + reason}
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, os.ErrDeadlineExceeded):
		return &Error{Code: CodeTimeout, Message: "upstream took the connection but did not answer in time"}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return errIncomplete()
	}
	return &Error{Code: CodeNotGit, Message: "upstream does not speak HTTP as it should: " + printable(err.Error(), 200)}
}

// tlsError returns the Error for a failed handshake, or nil.
func tlsError(err error) *Error {
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	var host x509.HostnameError
	var authority x509.UnknownAuthorityError
	switch {
	case errors.As(err, &cert), errors.As(err, &host), errors.As(err, &authority):
		return &Error{Code: CodeTLS, Message: "the upstream certificate is not trusted: " + printable(err.Error(), 200)}
	case errors.As(err, &record), errors.As(err, &alert):
		return &Error{Code: CodeTLS, Message: "upstream does not speak TLS as it should: " + printable(err.Error(), 200)}
	}
	return nil
}

func errIncomplete() *Error {
	return &Error{Code: CodeIncomplete, Message: "upstream ended its answer before it was complete"}
}

// explain turns what go-git returned into the Error behind it. go-git keeps
// the text of an error but often not the error, so the guard's memory of the
// first one goes before.
func (s *Session) explain(ctx context.Context, err error) error {
	if seen := s.guard.failure(); seen != nil {
		return seen
	}
	if ctx.Err() != nil {
		return netError(ctx, err)
	}
	text := err.Error()
	if errors.Is(err, transport.ErrEmptyUploadPackRequest) || strings.HasSuffix(text, "EOF") {
		return errIncomplete()
	}
	return notGit(s.guard.said(text))
}

// refused is the Error for a text that upstream told in the protocol.
func (g *guard) refused(text string) *Error {
	if strings.Contains(text, "not our ref") || strings.Contains(text, "not valid") {
		return &Error{Code: CodeNoSuchCommit, Message: "upstream does not have the commit, or does not give it out by its id; it says " + g.said(text)}
	}
	return &Error{Code: CodeRefused, Message: "upstream says " + g.said(text)}
}

// userinfo is what stands before the host of a URL inside a text.
var userinfo = regexp.MustCompile(`://[^/\s@]*@`)

// said makes a text of upstream's fit for messages and logs: on one line, at
// most 200 bytes, without the credentials that upstream got from us.
func (g *guard) said(text string) string {
	for _, secret := range g.next.login.secrets() {
		text = strings.ReplaceAll(text, secret, "***")
	}
	text = userinfo.ReplaceAllString(text, "://***@")
	return `"` + printable(strings.Trim(text, "\x00 \r\n\t"), 200) + `"`
}

// printable returns s with what does not print escaped, cut to about limit bytes.
func printable(s string, limit int) string {
	var b strings.Builder
	for i, r := range s {
		if b.Len() >= limit {
			return b.String() + "..."
		}
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], string(utf8.RuneError)):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
		}
	}
	return b.String()
}
