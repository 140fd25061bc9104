package upstream

import (
	"encoding/base64"
	"net/url"
	"strings"

	"github.com/francescobianco/packbase/storage/userfile"
)

// A Login is the user and password for one host.
type Login struct{ User, Password string }

func (l Login) isZero() bool { return l == Login{} }

// secrets returns the texts that must not appear in a message.
func (l Login) secrets() []string {
	if l.Password == "" {
		return nil
	}
	return []string{base64.StdEncoding.EncodeToString([]byte(l.User + ":" + l.Password)), l.Password}
}

// readNetrc returns what the netrc file at path says about the host of u, or
// the zero login. "machine" names a host, or host:port, which goes before.
// "default" is passed over: it would send credentials to any host.
//
// The file is read each time, so a change needs no restart. Its format is that
// of the GNU inetutils manual, "The .netrc file".
func readNetrc(path string, u *url.URL) (Login, error) {
	data, err := userfile.Read(path, userfile.MaxText)
	if err != nil {
		return Login{}, err
	}
	logins := parseNetrc(string(data))
	if l, ok := logins[foldHost(u.Host)]; ok {
		return l, nil
	}
	return logins[foldHost(u.Hostname())], nil
}

// parseNetrc returns the logins of text by machine; of two, the first counts.
func parseNetrc(text string) map[string]Login {
	logins := make(map[string]Login)
	var machine string
	var current Login
	end := func() {
		if _, seen := logins[machine]; machine != "" && !seen {
			logins[machine] = current
		}
		machine, current = "", Login{}
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
			current.User = value
		case "password":
			current.Password = value
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
