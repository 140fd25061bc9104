// Package project reads a Zig project on this machine: its manifests, and the Zig that builds it.
package project

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/francescobianco/packbase/storage/userfile"
	"github.com/francescobianco/packbase/storage/zigpkg"
)

// maxManifests bounds how many manifests one project may have.
const maxManifests = 1000

// ErrNoManifest says that a folder has none.
var ErrNoManifest = errors.New("there is no " + zigpkg.ManifestName)

// A Manifest is a build.zig.zon of the project.
type Manifest struct {
	File string // relative to the project's folder, with slashes
	Text string
}

// Manifests returns the manifest of the project in dir and those of its path dependencies, wherever these
// lie, each once, the root first. An error names the file, and line and column as Zig does.
func Manifests(dir string) ([]Manifest, error) {
	root, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find project: %w", err)
	}
	var all []Manifest
	seen := map[string]bool{}
	for todo := []string{root}; len(todo) > 0; {
		folder := todo[0]
		todo = todo[1:]
		// The same folder by two names would be the same manifest twice.
		real, err := filepath.EvalSymlinks(folder)
		if err == nil && seen[real] {
			continue
		}
		seen[real] = true
		text, err := read(filepath.Join(folder, zigpkg.ManifestName))
		if errors.Is(err, fs.ErrNotExist) && folder != root {
			continue // a dependency without a manifest has no dependencies
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w in %s; name the project's folder", ErrNoManifest, dir)
		}
		if err != nil {
			return nil, err
		}
		name, err := filepath.Rel(root, filepath.Join(folder, zigpkg.ManifestName))
		if err != nil {
			return nil, fmt.Errorf("find project: %w", err)
		}
		man, err := zigpkg.ParseManifest([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("%s:%w", name, err)
		}
		if len(all) == maxManifests {
			return nil, fmt.Errorf("the project has more than %d manifests", maxManifests)
		}
		all = append(all, Manifest{File: filepath.ToSlash(name), Text: text})
		for _, dep := range man.Dependencies {
			if dep.Path != "" && dep.URL == "" {
				todo = append(todo, filepath.Join(folder, filepath.FromSlash(dep.Path)))
			}
		}
	}
	return all, nil
}

func read(name string) (string, error) {
	b, err := userfile.Read(name, zigpkg.MaxManifestBytes)
	return string(b), err
}

// Version returns what a zig says is its version, as in 0.15.2.
func Version(ctx context.Context, zig string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, zig, "version")
	cmd.WaitDelay = time.Second // what it started may keep its output open
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s version: %w", zig, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// ReadsArchives tells whether a Zig of that version looks for tarballs in its global cache, as 0.16 and
// later do, and not for folders. known is false if the version cannot be read.
func ReadsArchives(version string) (archives, known bool) {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 3 || parts[0] != "0" {
		return true, len(parts) == 3
	}
	minor, err := strconv.Atoi(parts[1])
	return minor >= 16, err == nil
}

// CacheDir returns the global cache that Zig uses with the given environment. Source: std.zig.Environ and
// resolveGlobalCacheDir of introspect.zig.
func CacheDir(getenv func(string) string) (string, error) {
	if dir := getenv("ZIG_GLOBAL_CACHE_DIR"); dir != "" {
		return dir, nil
	}
	if runtime.GOOS == "windows" {
		if dir := getenv("LOCALAPPDATA"); dir != "" {
			return filepath.Join(dir, "zig"), nil
		}
		return "", errors.New("LOCALAPPDATA is not set: name Zig's cache with --cache-dir")
	}
	if dir := getenv("XDG_CACHE_HOME"); dir != "" {
		return filepath.Join(dir, "zig"), nil
	}
	if home := getenv("HOME"); home != "" {
		return filepath.Join(home, ".cache", "zig"), nil
	}
	return "", errors.New("neither HOME nor ZIG_GLOBAL_CACHE_DIR is set: name Zig's cache with --cache-dir")
}
