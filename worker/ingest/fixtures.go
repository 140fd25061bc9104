package ingest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Fixtures returns the names of the local packages in folder: plain source
// trees, and bare repositories called name.git.
func Fixtures(folder string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("read folder: %w", err)
	}
	var names []string
	for _, e := range entries {
		info, err := os.Stat(filepath.Join(folder, e.Name()))
		if err == nil && info.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
