// Program compose reads a compose file and a Dockerfile as Docker does, and
// fails with what is wrong in them.
//
//	compose DIR compose.yml docker/Dockerfile
//
// It prints the services of all profiles, one a line, with the images.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/opencontainers/go-digest"
)

func main() {
	if err := run(context.Background(), os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir, file, dockerfile string) error {
	opts, err := cli.NewProjectOptions([]string{filepath.Join(dir, file)}, cli.WithWorkingDirectory(dir), cli.WithOsEnv, cli.WithProfiles([]string{"*"}))
	if err != nil {
		return err
	}
	project, err := opts.LoadProject(ctx)
	if err != nil {
		return err
	}
	for _, name := range project.ServiceNames() {
		fmt.Println(name, project.Services[name].Image)
	}
	text, err := os.ReadFile(filepath.Join(dir, dockerfile))
	if err != nil {
		return err
	}
	source := llb.NewSourceMap(nil, dockerfile, "Dockerfile", text)
	source.Definition = &llb.Definition{}
	lint, err := dockerfile2llb.DockerfileLint(ctx, text, dockerfile2llb.ConvertOpt{SourceMap: source, MetaResolver: offline{}})
	if err != nil {
		return err
	}
	for _, w := range lint.Warnings {
		err = fmt.Errorf("%s: %s: %s", dockerfile, w.RuleName, w.Detail)
		fmt.Fprintln(os.Stderr, err)
	}
	return err
}

// offline knows nothing of base images, so that nobody is asked for them.
type offline struct{}

func (offline) ResolveImageConfig(_ context.Context, ref string, _ sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	return ref, "", []byte("{}"), nil
}
