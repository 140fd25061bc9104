package client

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/francescobianco/packbase/cmd/packbase/term"
)

func TestClientToken(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	write := func(name, text string) string {
		name = filepath.Join(root, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	write("token", "of-packbase-up\n")
	other, empty := write("other", "of-a-file"), write("empty", "")
	here := map[string]string{"PACKBASE_ROOT": root}
	tests := []struct {
		name   string
		server string
		env    map[string]string
		flags  remote
		want   string
		bad    bool
	}{
		{"none", DefaultURL, nil, remote{}, "", false},
		{"of packbase up", DefaultURL, here, remote{}, "of-packbase-up", false},
		{"of packbase up, by name", "http://localhost:8080", here, remote{}, "of-packbase-up", false},
		{"of packbase up, not for others", "https://packbase.example", here, remote{}, "", false},
		{"variable", DefaultURL, map[string]string{"PACKBASE_ROOT": root, "PACKBASE_TOKEN": "of-the-variable"}, remote{}, "of-the-variable", false},
		{"flag", DefaultURL, map[string]string{"PACKBASE_TOKEN": "of-the-variable"}, remote{token: "of-the-flag"}, "of-the-flag", false},
		{"file", "https://packbase.example", map[string]string{"PACKBASE_TOKEN": "of-the-variable"}, remote{tokenFile: other}, "of-a-file", false},
		{"file of variable", "https://packbase.example", map[string]string{"PACKBASE_TOKEN_FILE": other}, remote{}, "of-a-file", false},
		{"file that is not there", DefaultURL, here, remote{tokenFile: other + "x"}, "", true},
		{"empty file", DefaultURL, here, remote{tokenFile: empty}, "", true},
		{"both", DefaultURL, here, remote{token: "a", tokenFile: other}, "", true},
	}
	for _, tt := range tests {
		p := &program{&term.Program{Getenv: func(name string) string { return tt.env[name] }}}
		base, err := parseBase(tt.server)
		if err != nil {
			t.Fatal(err)
		}
		got, err := p.clientToken(&tt.flags, base)
		var wrong term.UsageError
		if bad := errors.As(err, &wrong); got != tt.want || bad != tt.bad || bad != (err != nil) {
			t.Errorf("%s: got %q, %v, want %q, a mistake in usage: %t", tt.name, got, err, tt.want, tt.bad)
		}
	}
}
