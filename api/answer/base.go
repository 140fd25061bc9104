package answer

import (
	"net/http"
	"regexp"
)

var hostPattern = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$`)

// BaseURL returns the scheme and host under which the client knows us.
//
// The host is the client's word, so what is made from it is never cached for
// others.
func BaseURL(r *http.Request) (string, error) {
	if len(r.Host) > 255 || !hostPattern.MatchString(r.Host) {
		return "", &Error{Status: http.StatusBadRequest, Code: "host_invalid", Message: "the Host header does not name a host"}
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	if proto := r.Header.Get("X-Forwarded-Proto"); proto == "http" || proto == "https" {
		scheme = proto
	}
	return scheme + "://" + r.Host, nil
}
