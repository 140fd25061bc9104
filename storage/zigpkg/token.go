package zigpkg

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"
)

// A kind is what a token is. The bytes ( ) [ ] { } , . = are their own kinds.
type kind byte

const (
	end        kind = iota // of the file
	identifier             // bare, or quoted as in @"any string"
	keyword
	builtin          // @name
	stringLiteral    // "one line"
	multilineLiteral // a line that starts with \\
	charLiteral
	numberLiteral
	operator // everything else that an expression may hold
)

// A token is src[start:end].
type token struct {
	kind       kind
	start, end int
}

// scan returns the first token at or after pos. Once every release has refused the
// file, there are no more tokens.
func (p *parser) scan(pos int) token {
	if t := p.tokenAt(p.space(pos)); p.m.usable != 0 {
		return t
	}
	return token{end, len(p.src), len(p.src)}
}

// tokenAt returns the token at pos.
// Source: std.zig.Tokenizer of 0.13 and of 0.17.
func (p *parser) tokenAt(pos int) token {
	if pos == len(p.src) {
		return token{end, pos, pos}
	}
	switch c := p.src[pos]; {
	case c == '"':
		return token{stringLiteral, pos, p.quoted(pos)}
	case c == '\'':
		return token{charLiteral, pos, p.quoted(pos)}
	case c == '@' && p.at(pos+1) == '"':
		return token{identifier, pos, p.quoted(pos + 1)}
	case c == '@' && isWordByte(p.at(pos+1)) && !isDigit(p.at(pos+1)):
		return token{builtin, pos, p.word(pos + 1)}
	case isDigit(c):
		return token{numberLiteral, pos, p.number(pos)}
	case isWordByte(c):
		t := token{identifier, pos, p.word(pos)}
		by := keywordIn(string(p.src[pos:t.end]))
		if by == allReleases {
			t.kind = keyword
			return t
		}
		p.refuse(by, pos, "%s is a keyword", p.src[pos:t.end])
		return t
	case c == '\\' && p.at(pos+1) == '\\':
		return token{multilineLiteral, pos, p.line(pos + 2)}
	case strings.IndexByte("()[]{},", c) >= 0:
		return token{kind(c), pos, pos + 1}
	case strings.IndexByte(".=!%&*+-/:;<>?^|~", c) >= 0:
		return p.operator(pos)
	}
	p.refuse(allReleases, pos, "invalid token")
	return token{}
}

// at returns the byte at pos, or 0 behind the last.
func (p *parser) at(pos int) byte {
	if pos < len(p.src) {
		return p.src[pos]
	}
	return 0
}

// space returns the position of the first byte that is neither white space nor comment.
func (p *parser) space(pos int) int {
	for pos < len(p.src) {
		switch c := p.src[pos]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			pos++
		case c == '/' && p.at(pos+1) == '/':
			mark, next := p.at(pos+2), p.at(pos+3)
			if mark == '!' || mark == '/' && next != '/' {
				p.refuse(allReleases, pos, "expected field initializer, found 'a document comment'")
				return pos
			}
			pos = p.line(pos + 2)
		default:
			return pos
		}
	}
	return pos
}

// line returns the end of the line, after checking the bytes up to there.
func (p *parser) line(pos int) int {
	stop := len(p.src)
	if n := bytes.IndexByte(p.src[pos:], '\n'); n >= 0 {
		stop = pos + n
	}
	content := p.src[pos:stop]
	if stop < len(p.src) {
		content = bytes.TrimSuffix(content, []byte{'\r'})
	}
	p.check(pos, content, from014)
	return stop
}

// quoted returns the position behind the string or character literal at pos.
func (p *parser) quoted(pos int) int {
	quote := p.src[pos]
	for i := pos + 1; i < len(p.src) && p.src[i] != '\n'; i++ {
		switch p.src[i] {
		case quote:
			p.check(pos+1, p.src[pos+1:i], allReleases)
			return i + 1
		case '\\':
			if p.at(i+1) != '\n' {
				i++
			}
		}
	}
	p.refuse(allReleases, pos, "literal does not end on its line")
	return len(p.src)
}

// check refuses bytes that Zig does not want to see in comments and literals.
// Tabs are refused by the releases of noTabs.
func (p *parser) check(pos int, content []byte, noTabs releases) {
	for i := 0; i < len(content); {
		c := content[i]
		size := 1
		switch {
		case c == '\t':
			p.refuse(noTabs, pos+i, "comment or literal contains invalid byte: '\\t'")
		case c < 0x20 || c == 0x7f:
			p.refuse(allReleases, pos+i, "comment or literal contains invalid byte: '\\x%02x'", c)
			return
		case c >= utf8.RuneSelf:
			var r rune
			r, size = utf8.DecodeRune(content[i:])
			const nextLine, lineSeparator, paragraphSeparator = '\u0085', '\u2028', '\u2029'
			if r == utf8.RuneError && size == 1 || r == nextLine || r == lineSeparator || r == paragraphSeparator {
				p.refuse(upTo013, pos+i, "comment or literal contains invalid bytes")
			}
		}
		i += size
	}
}

func (p *parser) word(pos int) int {
	for isWordByte(p.at(pos)) {
		pos++
	}
	return pos
}

// number returns the end of the number at pos, well formed or not: what follows
// matters only where a number is wanted.
func (p *parser) number(pos int) int {
	float := false
	for ; ; pos++ {
		c, next := p.at(pos), p.at(pos+1)
		switch {
		case strings.IndexByte("eEpP", c) >= 0 && (next == '+' || next == '-'):
			float = true
			pos++
		case c == '.' && !float && isWordByte(next):
			float = true
		case !isWordByte(c):
			return pos
		}
	}
}

// operator tells . and = from the operators that start with them.
func (p *parser) operator(pos int) token {
	c, next := p.at(pos), p.at(pos+1)
	switch {
	case c == '.' && next == '.' && p.at(pos+2) == '.':
		return token{operator, pos, pos + 3}
	case c == '.' && (next == '.' || next == '*'):
		return token{operator, pos, pos + 2}
	case c == '=' && next == '>', c != '.' && next == '=' && strings.IndexByte(":;?~", c) < 0:
		return token{operator, pos, pos + 2}
	case c == '.' || c == '=':
		return token{kind(c), pos, pos + 1}
	}
	return token{operator, pos, pos + 1}
}

// unquote returns what the literal t, string or quoted identifier, stands for.
// Source: std.zig.string_literal.
func (p *parser) unquote(t token) string {
	start := t.start + bytes.IndexByte(p.src[t.start:t.end], '"') + 1
	body := p.src[start : t.end-1]
	var out []byte
	for {
		i := bytes.IndexByte(body, '\\')
		if i < 0 {
			return string(append(out, body...))
		}
		out = append(out, body[:i]...)
		var problem string
		out, body, problem = unescape(out, body[i+1:])
		if problem != "" {
			p.refuse(allReleases, t.end-1-len(body), "%s", problem)
			return ""
		}
	}
}

// unescape decodes one escape sequence, without its backslash, from the front of
// body. It returns what is left of body, and what is wrong there if something is.
func unescape(out, body []byte) (_, rest []byte, problem string) {
	switch body[0] {
	case 'n':
		return append(out, '\n'), body[1:], ""
	case 'r':
		return append(out, '\r'), body[1:], ""
	case 't':
		return append(out, '\t'), body[1:], ""
	case '\\', '\'', '"':
		return append(out, body[0]), body[1:], ""
	case 'x':
		if len(body) < 3 || hexDigit(body[1]) < 0 || hexDigit(body[2]) < 0 {
			return out, body, "expected two hex digits"
		}
		return append(out, byte(hexDigit(body[1])<<4|hexDigit(body[2]))), body[3:], ""
	case 'u':
		return unescapeRune(out, body)
	}
	return out, body, fmt.Sprintf("invalid escape character: %+q", body[0])
}

// unescapeRune decodes u{hex digits}.
func unescapeRune(out, body []byte) (_, rest []byte, problem string) {
	digits, rest, ok := bytes.Cut(body[1:], []byte{'}'})
	if !ok || len(digits) < 2 || digits[0] != '{' {
		return out, body, "expected hex digits in braces after \\u"
	}
	r := rune(0)
	for _, c := range digits[1:] {
		d := hexDigit(c)
		if d < 0 {
			return out, body, "expected hex digits in braces after \\u"
		}
		r = min(r<<4|d, utf8.MaxRune+1)
	}
	if !utf8.ValidRune(r) {
		return out, body, "unicode escape does not correspond to a valid unicode scalar value"
	}
	return utf8.AppendRune(out, r), rest, ""
}

// hexDigit returns the value of a hex digit, or -1.
func hexDigit(c byte) rune {
	return rune(strings.IndexByte("0123456789abcdef", lower(c)))
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// isWordByte reports whether c may stand in an identifier.
func isWordByte(c byte) bool {
	return isDigit(c) || c == '_' || 'a' <= lower(c) && lower(c) <= 'z'
}

// isIdentifier reports whether s has the form of a bare identifier; it may be a keyword.
func isIdentifier(s string) bool {
	if s == "" || isDigit(s[0]) {
		return false
	}
	for i := range len(s) {
		if !isWordByte(s[i]) {
			return false
		}
	}
	return true
}

// keywordIn returns the releases in which word is a keyword.
func keywordIn(word string) releases {
	switch word {
	case "async", "await", "usingnamespace":
		return upTo014
	case "addrspace", "align", "allowzero", "and", "anyframe", "anytype", "asm", "break",
		"callconv", "catch", "comptime", "const", "continue", "defer", "else", "enum",
		"errdefer", "error", "export", "extern", "fn", "for", "if", "inline", "linksection",
		"noalias", "noinline", "nosuspend", "opaque", "or", "orelse", "packed", "pub",
		"resume", "return", "struct", "suspend", "switch", "test", "threadlocal", "try",
		"union", "unreachable", "var", "volatile", "while":
		return allReleases
	}
	return 0
}
