package main

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// zigPrograms returns the paths of the zig programs of the versions, fetching
// those that are missing.
func zigPrograms(ctx context.Context, versions []string) ([]string, error) {
	cache, err := cacheDir()
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, version := range versions {
		dir := filepath.Join(cache, "zig", version)
		path := filepath.Join(dir, "zig")
		if _, err := os.Stat(path); err != nil {
			if err := fetchZig(ctx, version, dir); err != nil {
				return nil, fmt.Errorf("fetch zig %s: %w", version, err)
			}
		}
		if err := warm(ctx, path); err != nil {
			return nil, fmt.Errorf("warm zig %s: %w", version, err)
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// warm has a Zig compile what it needs to fetch, into the user's cache: from
// 0.17 on that takes a minute, and tests that run at once would each wait for
// it. Once it is there, this takes no time.
func warm(ctx context.Context, zig string) error {
	dir, err := os.MkdirTemp("", "warm-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	pkg := filepath.Join(dir, "pkg")
	err = errors.Join(os.Mkdir(pkg, 0o755), os.WriteFile(filepath.Join(pkg, "a.zig"), nil, 0o644),
		os.WriteFile(filepath.Join(dir, "build.zig"), nil, 0o644))
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, zig, "fetch", pkg)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("zig fetch: %w\n%s", err, out)
	}
	return nil
}

func cacheDir() (string, error) {
	if dir := os.Getenv("PACKBASE_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache: %w (PACKBASE_CACHE can name one)", err)
	}
	return filepath.Join(dir, "packbase"), nil
}

// fetchZig makes dir, the Zig of a version. It appears when it is complete.
func fetchZig(ctx context.Context, version, dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	staging, err := os.MkdirTemp(filepath.Dir(dir), "fetch-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(staging)
	fmt.Fprintf(os.Stderr, "env: fetching zig %s\n", version)
	wheel, err := downloadWheel(ctx, version, staging)
	if err != nil {
		return err
	}
	unpacked := filepath.Join(staging, "zig")
	if err := unpackZig(wheel, unpacked); err != nil {
		return fmt.Errorf("unpack %s: %w", filepath.Base(wheel), err)
	}
	out, err := exec.CommandContext(ctx, filepath.Join(unpacked, "zig"), "version").Output()
	if got := strings.TrimSpace(string(out)); err != nil || got != version {
		return fmt.Errorf("run zig version: printed %q, %v", got, err)
	}
	err = os.Rename(unpacked, dir)
	if _, missing := os.Stat(filepath.Join(dir, "zig")); missing == nil {
		return nil // by us, or by another run at the same time
	}
	return err
}

// downloadWheel downloads the wheel with that version of Zig for this machine.
func downloadWheel(ctx context.Context, version, dir string) (string, error) {
	if err := exec.CommandContext(ctx, "python3", "-m", "pip", "--version").Run(); err != nil {
		return "", fmt.Errorf("python3 -m pip does not run: %w: apt-get install python3-pip", err)
	}
	cmd := exec.CommandContext(ctx, "python3", "-m", "pip", "download", "--quiet", "--no-deps",
		"--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check", "--dest", dir, "ziglang=="+version)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("pip download ziglang==%s: %w: is the Python package index reachable?\n%s", version, err, out)
	}
	wheels, err := filepath.Glob(filepath.Join(dir, "ziglang-*.whl"))
	if err != nil || len(wheels) != 1 {
		return "", fmt.Errorf("pip download ziglang==%s left %q, %v, want one wheel", version, wheels, err)
	}
	return wheels[0], nil
}

// unpackZig unpacks the folder ziglang of a wheel, which is a zip file, to dir.
func unpackZig(wheel, dir string) error {
	archive, err := zip.OpenReader(wheel)
	if err != nil {
		return err
	}
	defer archive.Close()
	for _, file := range archive.File {
		name, ok := strings.CutPrefix(file.Name, "ziglang/")
		if !ok || strings.HasSuffix(name, "/") {
			continue
		}
		if !filepath.IsLocal(name) {
			return fmt.Errorf("file %q is not local", file.Name)
		}
		if err := unpackFile(file, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return os.Chmod(filepath.Join(dir, "zig"), 0o755)
}

func unpackFile(file *zip.File, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	from, err := file.Open()
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Close())
}
