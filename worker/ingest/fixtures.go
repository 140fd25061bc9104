package ingest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/name"
)

// Fixtures returns the names of the local packages in folder: plain source
// trees, and bare repositories called name.git. A symbolic link that leads out
// of the folder is none.
func Fixtures(folder string) ([]string, error) {
	root, err := os.OpenRoot(folder + "/") // a pipe is not waited for
	if err != nil {
		return nil, fmt.Errorf("open folder: %w", WithoutPath(err))
	}
	defer root.Close()
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("read folder: %w", WithoutPath(err))
	}
	var names []string
	for _, e := range entries {
		info, err := root.Stat(e.Name())
		if err == nil && info.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// FixtureSize returns how many bytes the files have of the fixture that req
// names, 0 if it is not there.
func FixtureSize(req Request) (bytes int64) {
	folder, err := openFixtureFolder(req, strings.TrimPrefix(req.CloneURL, name.FixtureScheme))
	if err != nil {
		return 0
	}
	defer folder.Close()
	_ = fs.WalkDir(unwaiting{folder}, ".", func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				bytes += info.Size()
			}
		}
		return nil
	})
	return bytes
}

// openFixtureFolder opens a fixture's folder, which nothing read through it
// leaves.
func openFixtureFolder(req Request, name string) (*os.Root, error) {
	gone := fault.New("fixture_not_found", fmt.Sprintf("the folder of fixtures, PACKBASE_FIXTURES, has no folder %q that it holds itself", name))
	if req.Fixtures == "" {
		return nil, gone
	}
	root, err := os.OpenRoot(req.Fixtures + "/")
	if err != nil {
		return nil, gone
	}
	defer root.Close()
	folder, err := root.OpenRoot(name + "/") // with the slash a pipe is not waited for
	if err != nil {
		return nil, gone
	}
	return folder, nil
}

// WithoutPath keeps the places of files from those who read about jobs.
func WithoutPath(err error) error {
	var file *fs.PathError
	if errors.As(err, &file) {
		return file.Err
	}
	return err
}
