package gitpack

import (
	"iter"
	"strings"
)

// configVariables yields the variables of a Git configuration file, such as
// "submodule.lib.url", with their values, up to the first mistake: what Git
// itself would have believed by then. A variable without a value has "".
//
// git-config(1), "Syntax".
func configVariables(src string) iter.Seq2[string, string] {
	return func(yield func(variable, value string) bool) {
		src = strings.ReplaceAll(strings.TrimPrefix(src, "\ufeff"), "\r\n", "\n")
		c := &configReader{rest: src + "\n"}
		section := ""
		for c.skip() {
			if c.rest[0] == '[' {
				var ok bool
				if section, ok = c.section(); !ok {
					return
				}
				continue
			}
			name, value, ok := c.variable()
			name, _, _ = strings.Cut(section+name, "\x00") // where a C string ends
			if !ok || !yield(name, value) {
				return
			}
		}
	}
}

// A configReader reads from the front of rest, which ends with a newline.
type configReader struct{ rest string }

// skip goes to the next section or variable; there is none if it returns false.
func (c *configReader) skip() bool {
	for {
		c.rest = strings.TrimLeft(c.rest, " \t\n\r")
		if c.rest == "" || c.rest[0] != '#' && c.rest[0] != ';' {
			return c.rest != ""
		}
		_, c.rest, _ = strings.Cut(c.rest, "\n")
	}
}

// section reads "[name]" or `[name "sub section"]`, and returns what stands
// before the names of its variables.
func (c *configReader) section() (prefix string, ok bool) {
	name := c.word(1, ".")
	if strings.HasPrefix(c.rest, "]") {
		c.rest = c.rest[1:]
		return name + ".", name != ""
	}
	trimmed := strings.TrimLeft(c.rest, " \t\r")
	if trimmed == c.rest || trimmed[0] != '"' {
		return "", false
	}
	var sub strings.Builder
	for i := 1; i < len(trimmed) && trimmed[i] != '\n'; i++ {
		switch trimmed[i] {
		case '"':
			c.rest, ok = strings.CutPrefix(trimmed[i+1:], "]")
			return name + "." + sub.String() + ".", ok && name != ""
		case '\\':
			if i++; trimmed[i] == '\n' {
				return "", false
			}
		}
		sub.WriteByte(trimmed[i])
	}
	return "", false
}

// word reads letters, digits, dashes and the bytes of more, after skip bytes.
func (c *configReader) word(skip int, more string) string {
	c.rest = c.rest[skip:]
	n := 0
	for isKeyByte(c.rest[n]) || strings.IndexByte(more, c.rest[n]) >= 0 {
		n++
	}
	word := strings.ToLower(c.rest[:n])
	c.rest = c.rest[n:]
	return word
}

func isKeyByte(b byte) bool {
	return 'a' <= b|0x20 && b|0x20 <= 'z' || '0' <= b && b <= '9' || b == '-'
}

// variable reads "name = value" or "name".
func (c *configReader) variable() (name, value string, ok bool) {
	if first := c.rest[0] | 0x20; first < 'a' || first > 'z' {
		return "", "", false
	}
	name = c.word(0, "")
	c.rest = strings.TrimLeft(c.rest, " \t")
	switch c.rest[0] {
	case '\n':
		return name, "", true
	case '=':
		value, ok = c.value()
		value, _, _ = strings.Cut(value, "\x00")
		return name, value, ok
	}
	return "", "", false
}

// value reads what follows "=", to the end of the line.
func (c *configReader) value() (string, bool) {
	var v strings.Builder
	quoted, spaces := false, 0
	for i := 1; i < len(c.rest); i++ {
		b := c.rest[i]
		switch {
		case b == '\n':
			c.rest = c.rest[i:]
			return v.String(), !quoted
		case !quoted && (b == ';' || b == '#'):
			c.rest = c.rest[i+strings.IndexByte(c.rest[i:], '\n'):]
			return v.String(), true
		case !quoted && strings.IndexByte(" \t\r", b) >= 0:
			if v.Len() > 0 {
				spaces++
			}
			continue
		}
		for ; spaces > 0; spaces-- {
			v.WriteByte(' ')
		}
		switch b {
		case '"':
			quoted = !quoted
			continue
		case '\\':
			i++
			at := strings.IndexByte("\ntbn\\\"", c.rest[i])
			if at < 0 {
				return "", false
			}
			if at == 0 {
				continue // the value goes on in the next line
			}
			b = "\n\t\b\n\\\""[at]
		}
		v.WriteByte(b)
	}
	return "", false
}
