package engines

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxSocketPath is the longest path of a unix socket, unix(7), sun_path.
const maxSocketPath = 107 // bytes

// account is the user that an engine runs as.
type account struct {
	uid, gid uint32
	caps     []uintptr // ambient capabilities
}

// attr returns how to start a process as the account. A process that is not
// root has no choice and runs as itself.
func (a account) attr() *syscall.SysProcAttr {
	if os.Geteuid() != 0 {
		return &syscall.SysProcAttr{}
	}
	return &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: a.uid, Gid: a.gid},
		AmbientCaps: a.caps,
	}
}

// makeHome makes the folder of an engine, mode 0700, and returns who the engine
// runs as: the owner of the folder. A new folder is given to the first of the
// users that exists, if we are root.
func makeHome(home string, users ...string) (account, error) {
	if err := os.Mkdir(home, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return account{}, err
	}
	a, err := owner(home)
	if err != nil {
		return account{}, err
	}
	if self := uint32(os.Geteuid()); self != 0 {
		if a.uid != self {
			return account{}, fmt.Errorf("%s belongs to user %d: run as that user or as root", home, a.uid)
		}
		return a, nil
	}
	if a.uid == 0 { // no engine runs as root
		if a, err = firstAccount(users...); err != nil {
			return account{}, err
		}
		if err := os.Chown(home, int(a.uid), int(a.gid)); err != nil {
			return account{}, err
		}
	}
	return a, a.reach(home)
}

func owner(path string) (account, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return account{}, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	return account{uid: st.Uid, gid: st.Gid}, nil
}

// firstAccount returns the first of the users that exists.
func firstAccount(names ...string) (account, error) {
	for _, name := range names {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return account{}, fmt.Errorf("look up user %s: %w", name, err)
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return account{}, fmt.Errorf("look up user %s: %w", name, err)
		}
		return account{uid: uint32(uid), gid: uint32(gid)}, nil
	}
	return account{}, fmt.Errorf("look up users %q: there is none", names)
}

// reach gives the account the capability to pass any folder if it could not
// reach path otherwise, as below /root.
func (a *account) reach(path string) error {
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			return &os.PathError{Op: "stat", Path: dir, Err: err}
		}
		search := uint32(unix.S_IXOTH)
		switch {
		case st.Uid == a.uid:
			search = unix.S_IXUSR
		case st.Gid == a.gid:
			search = unix.S_IXGRP
		}
		if st.Mode&search == 0 {
			a.caps = []uintptr{unix.CAP_DAC_READ_SEARCH}
			return nil
		}
		if dir == "/" {
			return nil
		}
	}
}

// socketDir returns the folder for a socket with the given name: home, or one
// below os.TempDir that is the account's alone if the path would be too long
// or has a comma, which pgx takes for the end of a host.
func (a account) socketDir(home, name string) (string, error) {
	if len(home)+len("/")+len(name) <= maxSocketPath && !strings.Contains(home, ",") {
		return home, nil
	}
	sum := sha256.Sum256([]byte(home))
	dir := filepath.Join(os.TempDir(), "packbase-"+hex.EncodeToString(sum[:6]))
	if len(dir)+len("/")+len(name) > maxSocketPath {
		return "", fmt.Errorf("make folder of socket: the paths of %s and %s do not fit", home, dir)
	}
	switch err := os.Mkdir(dir, 0o700); {
	case err == nil:
		if err := os.Lchown(dir, int(a.uid), int(a.gid)); err != nil {
			return "", err
		}
	case !errors.Is(err, os.ErrExist):
		return "", err
	}
	// Anybody can make folders there: trust it only if it is what we would make.
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return "", &os.PathError{Op: "lstat", Path: dir, Err: err}
	}
	if st.Mode != unix.S_IFDIR|0o700 || st.Uid != a.uid {
		return "", fmt.Errorf("make folder of socket: %s is not a folder of user %d with mode 0700", dir, a.uid)
	}
	return dir, nil
}
