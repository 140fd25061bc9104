package gitpack

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const (
	// Git reads neither longer lines of .gitattributes nor larger files.
	// git/attr.h.
	maxAttributesLine  = 2048
	maxAttributesBytes = 100 << 20

	maxModulesBytes = 4 << 20

	minTagBytes = 40 + 24 // git/tag.c, parse_tag_buffer
)

// Fsck checks what Git reads of a release beyond its tree: the commit, the tag
// objects that lead to it, and the files .gitmodules and .gitattributes. What
// it accepts, together with Files, a client with fetch.fsckObjects accepts:
// one bad object of one tag would keep it from every other tag.
// It returns codeCommitMalformed, codeTagMalformed or codeTreeConfig.
func (o *Objects) Fsck(commit OID, tags []OID, tree Listing) error {
	for _, id := range tags {
		raw, err := o.Read(id, Tag, maxHeadBytes)
		if err != nil {
			return err
		}
		if err := fsckTag(raw); err != nil {
			return errorf(codeTagMalformed, "tag: %v", err)
		}
	}
	raw, err := o.Read(commit, Commit, maxHeadBytes)
	if err != nil {
		return err
	}
	if err := fsckCommit(raw); err != nil {
		return errorf(codeCommitMalformed, "commit: %v", err)
	}
	return o.fsckFiles(tree)
}

func fsckCommit(raw []byte) error {
	h, err := newHead(raw)
	if err != nil {
		return err
	}
	for _, name := range []string{"tree", "parent"} {
		for h.has(name) {
			if _, err := h.id(name); err != nil {
				return err
			}
		}
	}
	for _, name := range []string{"author", "committer"} {
		if err := h.ident(name); err != nil {
			return err
		}
	}
	if bytes.IndexByte(raw, 0) >= 0 {
		return errors.New("message has a NUL")
	}
	return nil
}

// fsckTag leaves the name alone, as Git does: it is no path to anything.
func fsckTag(raw []byte) error {
	if len(raw) < minTagBytes {
		return fmt.Errorf("has %d bytes, fewer than Git reads", len(raw))
	}
	h, err := newHead(raw)
	if err != nil {
		return err
	}
	for _, name := range []string{"object", "type", "tag"} {
		if _, err := h.field(name); err != nil {
			return err
		}
	}
	if !h.has("tagger") {
		return nil // as in the first tags that Git made
	}
	return h.ident("tagger")
}

// identLine is "name <email> seconds zone", where the name may be empty.
var identLine = regexp.MustCompile(`^(?:[^<>]* )?<[^<>]*> (0|[1-9][0-9]*) [+-][0-9]{4}$`)

// ident checks the next line, which must be the field name.
func (h *head) ident(name string) error {
	line, err := h.field(name)
	if err != nil {
		return err
	}
	m := identLine.FindStringSubmatch(line)
	if m == nil || line[0] == '<' {
		return fmt.Errorf("%s line is not \"name <email> seconds zone\": %.100q", name, line)
	}
	if _, err := strconv.ParseUint(m[1], 10, 63); err != nil {
		return fmt.Errorf("%s line has a date beyond all calendars", name)
	}
	return nil
}

// fsckFiles checks the files of a tree that Git reads.
func (o *Objects) fsckFiles(tree Listing) error {
	for _, f := range slices.Concat(tree.Files, tree.Dirs) {
		name := path.Base(f.Path)
		var err error
		switch {
		case isDotGitmodules(name):
			err = o.fsckModules(f)
		case isDotGitattributes(name) && f.Mode != ModeSymlink: // Git does not follow it
			err = o.fsckAttributes(f)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (o *Objects) fsckAttributes(f File) error {
	if !f.IsRegular() {
		return errorf(codeTreeConfig, "%q is not a file", f.Path)
	}
	if f.Size > maxAttributesBytes {
		return errorf(codeTreeConfig, "%q has %d bytes, more than %d", f.Path, f.Size, maxAttributesBytes)
	}
	content, err := o.Open(f.OID)
	if err != nil {
		return err
	}
	in := bufio.NewReaderSize(content, maxAttributesLine)
	for {
		line, err := in.ReadSlice('\n')
		switch {
		case err == io.EOF, bytes.IndexByte(line, 0) >= 0: // where Git stops
			return nil
		case errors.Is(err, bufio.ErrBufferFull):
			return errorf(codeTreeConfig, "%q has a line of %d bytes or more, which Git does not read", f.Path, maxAttributesLine)
		case err != nil:
			return fmt.Errorf("read %q: %w", f.Path, err)
		}
	}
}

func (o *Objects) fsckModules(f File) error {
	raw, err := o.Read(f.OID, Blob, maxModulesBytes)
	if err != nil {
		return err
	}
	for variable, value := range configVariables(string(raw)) {
		rest, ok := strings.CutPrefix(variable, "submodule.")
		dot := strings.LastIndexByte(rest, '.')
		if !ok || dot < 0 {
			continue
		}
		if why := badModule(rest[:dot], rest[dot+1:], value); why != "" {
			return errorf(codeTreeConfig, "%q: submodule %.100q %s", f.Path, rest[:dot], why)
		}
	}
	return nil
}

// badModule says why a client must not see a setting of a submodule, or "".
// git/submodule-config.c, check_submodule_name and check_submodule_url.
func badModule(name, key, value string) string {
	slashed := strings.ReplaceAll(name, `\`, "/")
	switch {
	case name == "" || strings.Contains("/"+slashed+"/", "/../"):
		return "has a name that leads out of .git/modules"
	case key == "path" && strings.HasPrefix(value, "-"):
		return "has a path like an option"
	case key == "update" && strings.HasPrefix(value, "!"):
		return "runs a command when it is updated"
	case key == "url":
		return badModuleURL(value)
	}
	return ""
}

// webScheme is what makes a URL one that Git hands to curl.
var webScheme = regexp.MustCompile(`^(?:https?|ftps?)::|^(?:https?|ftps?)://`)

// badModuleURL says why Git refuses raw, or "".
func badModuleURL(raw string) string {
	relative := strings.HasPrefix(raw, "./") || strings.HasPrefix(raw, "../")
	scheme := webScheme.FindString(raw)
	switch {
	case strings.HasPrefix(raw, "-"):
		return "has a URL like an option"
	case !relative && scheme == "" && !strings.HasPrefix(raw, "git://"):
		return "" // no helper reads it
	case strings.Contains(raw, "\n"), strings.Contains(strings.ToLower(raw), "%0a"):
		return "has a newline in its URL"
	case relative && climbsToHost(raw):
		return fmt.Sprintf("has the URL %.100q, which could replace a host", raw)
	case scheme == "":
		return ""
	}
	rest, ok := raw[len(scheme):], true
	if !strings.HasSuffix(scheme, "://") {
		_, rest, ok = strings.Cut(rest, "://")
	}
	switch {
	case !ok || rest == "" || rest[0] == '/':
		return fmt.Sprintf("has the URL %.100q, which has no host", raw)
	case badWebURL(rest):
		return fmt.Sprintf("has the URL %.100q, which new versions of Git refuse", raw)
	}
	return ""
}

// climbsToHost reports whether a relative URL, put behind another one, could
// replace its host.
func climbsToHost(raw string) bool {
	up := false
	for {
		if rest, ok := strings.CutPrefix(raw, "../"); ok {
			raw, up = rest, true
		} else if rest, ok := strings.CutPrefix(raw, "./"); ok {
			raw = rest
		} else {
			return up && (strings.HasPrefix(raw, ":") || strings.HasPrefix(raw, "/"))
		}
	}
}

var (
	hostChars = regexp.MustCompile(`^[A-Za-z0-9._\[\]-][A-Za-z0-9._:\[\]-]*$`)
	badEscape = regexp.MustCompile(`%(?:[^0-9A-Fa-f]|.[^0-9A-Fa-f]|.?$)`)
)

// badWebURL judges what follows "http://". git/urlmatch.c, url_normalize.
func badWebURL(rest string) bool {
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	authority, rest := rest[:end], rest[end:]
	user, host, ok := strings.Cut(authority, "@")
	if !ok {
		user, host = "", authority
	}
	port := ""
	if i := strings.LastIndexAny(host, ":]"); i > 0 && host[i] == ':' {
		host, port = host[:i], host[i+1:]
	}
	if !hostChars.MatchString(host) || badEscape.MatchString(user) || badEscape.MatchString(rest) {
		return true
	}
	if port != "" {
		if _, err := strconv.ParseUint(strings.TrimLeft(port, "0"), 10, 16); err != nil {
			return true
		}
	}
	pathname := rest
	if end := strings.IndexAny(rest, "?#"); end >= 0 {
		pathname = rest[:end]
	}
	depth := 0
	dots := strings.NewReplacer("%2e", ".", "%2E", ".")
	for segment := range strings.SplitSeq(strings.TrimPrefix(pathname, "/"), "/") {
		switch dots.Replace(segment) {
		case ".":
		case "..":
			if depth--; depth < 0 {
				return true
			}
		default:
			depth++
		}
	}
	return false
}
