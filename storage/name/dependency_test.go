package name

import (
	"errors"
	"strings"
	"testing"
)

const sha = "7e9f8b1a7e9f8b1a7e9f8b1a7e9f8b1a7e9f8b1a"

func TestParseDependency(t *testing.T) {
	t.Parallel()
	tests := []struct {
		raw  string
		want Dependency
	}{
		{"git+https://GitHub.com:443/o/r.git/?ref=main#" + strings.ToUpper(sha),
			Dependency{URL: "git+https://github.com/o/r", Git: true, Ref: sha, Repository: "https://github.com/o/r", Snapshot: sha}},
		{"git+http://h:8080/r#v1%2B2", Dependency{URL: "git+http://h:8080/r", Git: true, Ref: "v1+2", Repository: "http://h:8080/r", Snapshot: "v1+2"}},
		{"git+https://h/a/../b/r", Dependency{URL: "git+https://h/b/r", Git: true, Repository: "https://h/b/r"}},
		{"https://user:secret@github.com/o/r/archive/" + sha + ".tar.gz#x",
			Dependency{URL: "https://github.com/o/r/archive/" + sha + ".tar.gz", Repository: "https://github.com/o/r", Snapshot: sha}},
		{"https://github.com/o/r/archive/refs/tags/v1/2.zip",
			Dependency{URL: "https://github.com/o/r/archive/refs/tags/v1/2.zip", Repository: "https://github.com/o/r", Snapshot: "v1/2"}},
		{"https://github.com/o/r/archive/7e9f8b1.tar.gz",
			Dependency{URL: "https://github.com/o/r/archive/7e9f8b1.tar.gz", Repository: "https://github.com/o/r", Snapshot: "7e9f8b1"}},
		{"https://codeload.github.com/o/r/tar.gz/refs/tags/v1",
			Dependency{URL: "https://codeload.github.com/o/r/tar.gz/refs/tags/v1", Repository: "https://github.com/o/r", Snapshot: "v1"}},
		{"https://github.com/o/r/releases/download/v1/r.tar.gz", Dependency{URL: "https://github.com/o/r/releases/download/v1/r.tar.gz"}},
		{"https://gitlab.gnome.org/G/sub/r/-/archive/v2.1/r-v2.1.tar.gz",
			Dependency{URL: "https://gitlab.gnome.org/G/sub/r/-/archive/v2.1/r-v2.1.tar.gz", Repository: "https://gitlab.gnome.org/G/sub/r", Snapshot: "v2.1"}},
		{"https://codeberg.org/o/r/archive/v1.tar.gz", Dependency{URL: "https://codeberg.org/o/r/archive/v1.tar.gz", Repository: "https://codeberg.org/o/r", Snapshot: "v1"}},
		{"https://git.sr.ht/~o/r/archive/v1.tar.gz", Dependency{URL: "https://git.sr.ht/~o/r/archive/v1.tar.gz", Repository: "https://git.sr.ht/~o/r", Snapshot: "v1"}},
		{"https://files.example.org/a%2Fb//x.tar.xz?a=b%20c", Dependency{URL: "https://files.example.org/a%2Fb//x.tar.xz?a=b%20c"}},
	}
	for _, tt := range tests {
		got, err := ParseDependency(tt.raw)
		if err != nil || got != tt.want {
			t.Errorf("ParseDependency(%q) = %+v, %v, want %+v", tt.raw, got, err, tt.want)
		}
	}
	for _, raw := range []string{"", "ssh://h/r", "git+ssh://h/r", "GIT+https://h/r", "HTTPS://h/r", "https:///r", "https:h/r", "git+https://h", "https://h/%zz", "https://h/" + strings.Repeat("a", MaxURL)} {
		if got, err := ParseDependency(raw); !errors.Is(err, ErrDependency) {
			t.Errorf("ParseDependency(%.40q) = %+v, %v, want ErrDependency", raw, got, err)
		}
	}
	if _, err := ParseDependency("ftp://user:secret@h/r"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("err = %v, want one without the password", err)
	}
}
