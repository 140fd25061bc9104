package deploy_test

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/francescobianco/packbase/tests/harness"
)

// A stage is a part of docker/Dockerfile that images are made of.
type stage struct {
	name string
	env  []string // NAME=value
	said map[string][]string
}

// stages reads docker/Dockerfile.
func stages(t *testing.T) (all []stage) {
	t.Helper()
	raw, err := os.ReadFile("../../docker/Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(raw), "\\\n", " ")
	for line := range strings.Lines(text) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case word == "FROM":
			_, name, _ := strings.Cut(rest, " AS ")
			all = append(all, stage{name: name, said: map[string][]string{}})
		case len(all) == 0 || word == "" || strings.HasPrefix(word, "#"):
		case word == "ENV":
			s := &all[len(all)-1]
			s.env = append(s.env, strings.Fields(rest)...)
		default:
			s := &all[len(all)-1]
			if _, list, ok := strings.Cut(rest, "["); ok && (word == "CMD" || word == "ENTRYPOINT" || word == "HEALTHCHECK") {
				var argv []string
				if err := json.Unmarshal([]byte("["+list), &argv); err != nil {
					t.Fatalf("%s: %v", line, err)
				}
				s.said[word] = argv
			} else {
				s.said[word] = append(s.said[word], rest)
			}
		}
	}
	return all
}

// What the image runs that `docker build` makes with no more than the Dockerfile: with the variables of the README's lines it
// is all of packbase in one, for whoever can reach it, with a short token; it outlives being killed, and is healthy.
func TestSingleContainer(t *testing.T) {
	t.Parallel()
	all := stages(t)
	image := all[len(all)-1]
	if !slices.Equal(image.said["ENTRYPOINT"], []string{"packbase"}) || !slices.Equal(image.said["HEALTHCHECK"], []string{"packbase", "health"}) ||
		!slices.Equal(image.said["USER"], []string{"65532:65532"}) || !slices.Contains(image.env, "PACKBASE_ROOT=/data") || image.name != "" {
		t.Errorf("the image is %+v", image)
	}
	s := harness.Up(t, append(slices.DeleteFunc(image.env, func(v string) bool { return strings.HasPrefix(v, "PACKBASE_ROOT=") }), "PACKBASE_TOKEN=secret")...)
	s.Token = "secret"
	if args := image.said["CMD"]; !slices.Equal(args, []string{"up"}) {
		t.Errorf("the image runs %q", args)
	}
	if !s.API.Said("so short that it can be guessed") {
		t.Error("a short token is taken without a warning")
	}
	if !s.API.Said("http://localhost:") {
		t.Error("what it prints to paste is no URL that can be used")
	}
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(s.URL, "http://"))
	reached := 0
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil {
			resp, err := http.Get("http://" + net.JoinHostPort(ip.IP.String(), port) + "/p/hello/tag/v0.1.0.tar.gz")
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Errorf("at %s: %v", ip.IP, err)
				continue
			}
			resp.Body.Close()
			reached++
		}
	}
	if reached == 0 {
		t.Error("it was reached at no address")
	}
	repo := harness.NewUpstream(t).Repo("lib")
	repo.Tag("v1.0.0", repo.Commit(harness.Files{"a.zig": ""}))
	s.Fetch(repo.URL)
	before := string(s.Get("/p/lib/tag/v1.0.0.tar.gz"))
	s.API.Kill9()
	s.API.Start()
	s.AwaitReady()
	if string(s.Get("/p/lib/tag/v1.0.0.tar.gz")) != before {
		t.Error("after a kill other bytes are served")
	}
	if _, stderr, err := harness.Run(t, s.Env, image.said["HEALTHCHECK"][1:]...); err != nil {
		t.Errorf("health: %v\n%s", err, stderr)
	}
}

// Docker's own readers of a compose file and of a Dockerfile find nothing wrong in ours.
func TestDockerReadsThem(t *testing.T) {
	t.Parallel()
	check := func(dir string) (string, error) {
		cmd := exec.Command("go", "run", ".", dir, "compose.yml", "docker/Dockerfile")
		cmd.Dir = "../tools/compose"
		cmd.Env = append(os.Environ(), "PACKBASE_TOKEN=t", "POSTGRES_PASSWORD=p")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	here, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := check(here); err != nil || strings.Count(out, "packbase-server") < 4 {
		t.Errorf("%v\n%s", err, out)
	}
	for file, change := range map[string][2]string{
		"compose.yml":       {"stop_grace_period:", "stop_grace_perio:"},
		"docker/Dockerfile": {"FROM scratch", "from scratch"},
	} {
		dir := t.TempDir()
		for _, name := range []string{"compose.yml", "docker/Dockerfile"} {
			b, err := os.ReadFile(filepath.Join(here, name))
			if err == nil {
				err = os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755)
			}
			if err == nil && name == file {
				b = []byte(strings.Replace(string(b), change[0], change[1], 1))
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, name), b, 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if out, err := check(dir); err == nil {
			t.Errorf("%s with %q passes:\n%s", file, change[1], out)
		}
	}
}

// compose.yml builds the image that it says, from a stage that there is, and mounts what its settings name.
func TestComposeBuilds(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../compose.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Services map[string]struct {
			Image   string
			Command []string
			Volumes []string
			Build   struct{ Dockerfile, Target string }
			Env     map[string]string `yaml:"environment"`
		}
	}
	if err := yaml.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range stages(t) {
		names = append(names, s.name)
	}
	ours := 0
	for name, s := range file.Services {
		if s.Build.Dockerfile == "" {
			continue
		}
		ours++
		if s.Build.Dockerfile != "docker/Dockerfile" || s.Build.Target == "" || !slices.Contains(names, s.Build.Target) {
			t.Errorf("%s is built of %+v, and the stages are %q", name, s.Build, names)
		}
		if strings.Contains(s.Image, ":-packbase}") {
			t.Errorf("%s has the name of the image that has all in one: %s", name, s.Image)
		}
	}
	if ours < 5 {
		t.Errorf("%d services are ours", ours)
	}
	worker := file.Services["worker"]
	if at := worker.Env["PACKBASE_FIXTURES"]; !strings.Contains(at, "/fixtures") || !slices.ContainsFunc(worker.Volumes, func(v string) bool { return strings.HasSuffix(v, ":/fixtures:ro") }) {
		t.Errorf("the worker's fixtures are at %q, with the volumes %q", at, worker.Volumes)
	}
	for _, said := range []string{"../../README.md", "../../docs/operating.md"} {
		text, err := os.ReadFile(said)
		if err != nil {
			t.Fatal(err)
		}
		for _, target := range regexp.MustCompile(`docker build[^\n]*--target (\w+)`).FindAllStringSubmatch(string(text), -1) {
			if !slices.Contains(names, target[1]) {
				t.Errorf("%s builds the stage %s, which is none", filepath.Base(said), target[1])
			}
		}
	}
}
