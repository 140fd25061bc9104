package pages

import "testing"

func TestSourceSaid(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		"":                                   "",
		"file:///srv/secret/catalog.json":    "a file of this server",
		"https://git.example/c/catalog.json": "https://git.example/c/catalog.json",
		"https://user:secret@git.example:8443/catalog.json?token=secret#secret": "https://git.example:8443/catalog.json",
		"http://%zz/secret": "a file of this server",
	} {
		if got := sourceSaid(source); got != want {
			t.Errorf("%q is shown as %q, want %q", source, got, want)
		}
	}
}
