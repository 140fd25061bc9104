package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

const (
	fileRedirects = 5
	mostResumes   = 5 // in a row that bring nothing
)

// CodeFileTooLarge says that a file exceeds the limit.
const CodeFileTooLarge = "archive_too_large"

// A File is what upstream answers at a URL, and its bytes as they come.
type File struct {
	ContentType string // headers as they came, clean; "" if there was none
	Disposition string
	Encoding    string // Content-Encoding, which is not undone
	FinalURL    string // after redirects, without its query, which may be a password; "" if there were none
	Length      int64  // as upstream says; -1 if it does not

	io.ReadCloser
}

// GetFile begins to download the file at u, of at most max bytes: with up to 5 redirects, with credentials only if
// upstream wants some, and after a break from where it was, if upstream can do that. Reading ends with io.EOF only
// when the file is whole.
func (c *Client) GetFile(ctx context.Context, u *url.URL, max int64) (*File, error) {
	ctx, cancel := c.limits.total(ctx)
	d := &download{client: c, ctx: ctx, cancel: cancel, url: u, left: max, max: max}
	var f *File
	_, err := c.asNeeded(u, func(as Login) (err error) {
		f, err = d.begin(as)
		return err
	})
	if err != nil {
		cancel()
		return nil, err
	}
	return f, nil
}

// A download is the body of a File.
type download struct {
	client *Client
	ctx    context.Context // of all requests
	cancel context.CancelFunc
	url    *url.URL
	login  Login

	body      io.ReadCloser
	at        int64  // bytes so far
	left, max int64  // bytes that may come, and might at the beginning
	validator string // names these bytes to upstream; "" if they cannot be had in parts
	vain      int    // resumes since a byte came
}

func (d *download) begin(login Login) (*File, error) {
	d.login = login
	resp, err := d.ask(nil)
	if err != nil {
		return nil, err
	}
	if e := statusError(resp); e != nil {
		resp.Body.Close()
		return nil, fileError(e)
	}
	if resp.ContentLength > d.max {
		resp.Body.Close()
		return nil, d.tooLarge()
	}
	d.body = resp.Body
	// RFC 9110, section 13.1.5: a weak validator names no bytes.
	if tag := resp.Header.Get("ETag"); resp.Header.Get("Accept-Ranges") == "bytes" && strings.HasPrefix(tag, `"`) {
		d.validator = tag
	}
	f := &File{
		ContentType: clean(resp.Header.Get("Content-Type")), Disposition: clean(resp.Header.Get("Content-Disposition")),
		Encoding: clean(resp.Header.Get("Content-Encoding")), Length: resp.ContentLength, ReadCloser: d,
	}
	if final := resp.Request.URL; final.String() != d.url.String() {
		f.FinalURL = (&url.URL{Scheme: final.Scheme, Host: final.Host, Path: final.Path, RawPath: final.RawPath}).String()
	}
	return f, nil
}

// clean keeps a header fit to be stored and sent.
func clean(header string) string { return printable(header, 300) }

func (d *download) ask(header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(d.ctx, http.MethodGet, d.url.String(), nil)
	if err != nil {
		return nil, &Error{Code: CodeURL, Message: "the URL cannot be asked for"}
	}
	for name, values := range header {
		req.Header[name] = values
	}
	rt := &roundTripper{client: d.client, origin: d.url, login: d.login, hops: fileRedirects}
	resp, err := (&http.Client{Transport: rt}).Do(req)
	var known *Error
	if errors.As(err, &known) {
		return nil, fileError(known)
	}
	if err != nil {
		return nil, netError(d.ctx, err)
	}
	return resp, nil
}

// ClosedFile is Closed for a file.
func ClosedFile() error {
	return fileError(statusError(&http.Response{StatusCode: http.StatusUnauthorized}))
}

// fileError says of a file what others say of a repository.
func fileError(e *Error) *Error {
	out := *e
	switch e.Code {
	case CodeNotFound:
		out.Message = "upstream has nothing at that URL, or hides it; check it"
	case CodeAuth:
		out.Message = "upstream refuses access: the file does not exist or is private; check the URL, or put credentials for its host into the netrc file (PACKBASE_NETRC)"
	case CodeNotGit:
		if e.Status == 0 {
			return e // it does not speak HTTP
		}
		out.Code, out.Message = CodeRefused, "upstream answers without a file"
	default:
		return e
	}
	out.Message += fmt.Sprintf(" (HTTP status %d)", e.Status)
	return &out
}

func (d *download) tooLarge() *Error {
	return &Error{Code: CodeFileTooLarge, Message: fmt.Sprintf("the file has more than the %d bytes that are allowed", d.max)}
}

// Read reads on, from another answer if this one breaks off.
func (d *download) Read(p []byte) (int, error) {
	for {
		n, err := d.body.Read(p)
		d.at += int64(n)
		if d.left -= int64(n); d.left < 0 {
			return 0, d.tooLarge()
		}
		if n > 0 {
			d.vain = 0
		}
		if err == nil || err == io.EOF {
			return n, err
		}
		if n > 0 {
			return n, nil // the error comes again
		}
		if err = d.resume(err); err != nil {
			return 0, err
		}
	}
}

// resume asks for the rest, or returns why that cannot be had: broken, as a rule.
func (d *download) resume(broken error) error {
	var known *Error
	if d.validator == "" || !errors.As(broken, &known) || known.fault().Final || d.vain == mostResumes || d.ctx.Err() != nil {
		return broken
	}
	d.vain++
	d.body.Close()
	resp, err := d.ask(http.Header{"Range": {fmt.Sprintf("bytes=%d-", d.at)}, "If-Range": {d.validator}})
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusPartialContent || !strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", d.at)) {
		resp.Body.Close()
		return broken
	}
	d.body = resp.Body
	return nil
}

// Close ends the download.
func (d *download) Close() error {
	defer d.cancel()
	return d.body.Close()
}
