package upstream

import (
	"encoding/base64"
	"net/url"
	"os"
	"strings"
)

// A login is the user and password for one host.
type login struct{ user, password string }

func (l login) isZero() bool { return l == login{} }

// secrets returns the texts that must not appear in a message.
func (l login) secrets() []string {
	if l.password == "" {
		return nil
	}
	return []string{base64.StdEncoding.EncodeToString([]byte(l.user + ":" + l.password)), l.password}
}

// readNetrc returns what the netrc file at path says about the host of u, or
// the zero login. "machine" names a host, or host:port, which goes before.
// "default" is passed over: it would send credentials to any host.
//
// The file is read each time, so a change needs no restart. Its format is that
// of the GNU inetutils manual, "The .netrc file".
func readNetrc(path string, u *url.URL) (login, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return login{}, err
	}
	logins := parseNetrc(string(data))
	if l, ok := logins[foldHost(u.Host)]; ok {
		return l, nil
	}
	return logins[foldHost(u.Hostname())], nil
}

// parseNetrc returns the logins of text by machine; of two, the first counts.
func parseNetrc(text string) map[string]login {
	logins := make(map[string]login)
	var machine string
	var current login
	end := func() {
		if _, seen := logins[machine]; machine != "" && !seen {
			logins[machine] = current
		}
		machine, current = "", login{}
	}
	words := netrcWords(text)
	for len(words) > 0 {
		key, value := words[0], ""
		words = words[1:]
		if key == "default" {
			end()
			continue
		}
		if len(words) > 0 {
			value, words = words[0], words[1:]
		}
		switch key {
		case "machine":
			end()
			machine = foldHost(value)
		case "login":
			current.user = value
		case "password":
			current.password = value
		}
	}
	end()
	return logins
}

// netrcWords splits text into its tokens, without comments and macros. A macro
// begins with "macdef" and ends with an empty line.
func netrcWords(text string) []string {
	var words []string
	macro := false
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			macro = false
		}
		if macro {
			continue
		}
		for i, f := range fields {
			if i == 0 && strings.HasPrefix(f, "#") {
				break
			}
			if f == "macdef" {
				macro = true
				break
			}
			words = append(words, f)
		}
	}
	return words
}
