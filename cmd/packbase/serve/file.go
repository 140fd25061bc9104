package serve

import (
	"fmt"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/spf13/pflag"

	"github.com/francescobianco/packbase/cmd/packbase/term"
	"github.com/francescobianco/packbase/storage/userfile"
)

const (
	fileFlag = "config"
	fileEnv  = "PACKBASE_CONFIG"
	maxFile  = 64 << 10 // bytes: what is nested deeply takes a hundred times as much and more to read
)

// A settingsFile is what a file says of settings, by the names of their flags. Flags and variables go before it.
type settingsFile struct {
	name   string
	values map[string]string
}

// readFile reads the file that a flag or PACKBASE_CONFIG names. No other is looked for: whoever can write where a server is
// started does not thereby set it up.
func readFile(p *term.Program, flags *pflag.FlagSet) (settingsFile, error) {
	f := settingsFile{name: p.Getenv(fileEnv), values: map[string]string{}}
	if flag := flags.Lookup(fileFlag); flag != nil && flag.Changed {
		f.name = flag.Value.String()
	}
	if f.name == "" {
		return f, nil
	}
	raw, err := userfile.Read(f.name, maxFile)
	if err != nil {
		return f, fmt.Errorf("%s: %w; want lines like port = 8080", fileEnv, err)
	}
	var said map[string]any
	if err := toml.Unmarshal(raw, &said); err != nil {
		return f, fmt.Errorf("%s: %w; want lines like port = 8080", f.name, err)
	}
	for name, value := range said {
		if !slices.ContainsFunc(settings(), func(s setting) bool { return s.name == name }) {
			return f, fmt.Errorf("%s: there is no setting %q; `packbase config` lists those that there are", f.name, name)
		}
		text, ok := settingText(value)
		if !ok {
			return f, fmt.Errorf("%s: %s: want a text, a number, true or false, or a list of these", f.name, name)
		}
		f.values[name] = text
	}
	return f, nil
}

// settingText returns a value of TOML as a variable would have it.
func settingText(value any) (text string, ok bool) {
	switch v := value.(type) {
	case string:
		return v, true
	case bool, int64:
		return fmt.Sprint(v), true
	case []any:
		var all []string
		for _, each := range v {
			one, ok := settingText(each)
			if !ok {
				return "", false
			}
			all = append(all, one)
		}
		return strings.Join(all, ","), true
	}
	return "", false
}
