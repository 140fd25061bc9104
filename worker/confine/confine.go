// Package confine hides how a process gives up all that it does not need
// before strangers' bytes reach it.
//
// A process calls [Room.Enter] on itself and cannot go back. Which walls then
// stand depends on the kernel and on who runs it; [Walls] tells. The walls
// overlap on purpose, so that one that is missing leaves others:
//
//   - a user of its own, where the worker is root: no other process and no
//     file outside of its folder is that user's;
//   - a root folder of its own, likewise: there are no other files at all;
//   - Landlock: no file but those named, no TCP but the port named, no signal to others;
//   - seccomp: no system call but those of an ordinary computation: none that
//     makes a socket, starts a program or touches another process;
//   - limits on memory, processor time, files and processes.
package confine

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/landlock-lsm/go-landlock/landlock"
	"golang.org/x/sys/unix"
)

// A Room is what a process may still use.
type Room struct {
	Dir    string // the folder that it works in, and the only one that it may write to
	Limits Limits

	// Program says that another program takes the process over, which needs
	// more of the kernel than ours do. It has no root folder of its own.
	Program bool
	Read    []string // of a Program: files and folders, those that are missing passed over
	Port    uint16   // of a Program: what it may connect to by TCP; 0 for nothing
}

// Limits are kept by the kernel. Sizes are bytes. Zero Processes are no limit.
type Limits struct {
	Memory    int64         // address space
	File      int64         // length of any file
	CPU       time.Duration // processor time
	Files     uint64        // open at once
	Processes uint64        // and threads, of its own user
}

// Walls are those that stand around a process.
type Walls struct {
	User        bool `json:"user"`     // it has one of its own
	Root        bool `json:"root"`     // it has a root folder of its own
	Landlock    int  `json:"landlock"` // the kernel's version of it; 0 for none
	Seccomp     bool `json:"seccomp"`
	NoNewPrivs  bool `json:"no_new_privs"`
	Undebugable bool `json:"undebugable"` // by processes of the same user
}

// String lists the walls that stand and those that do not.
func (w Walls) String() string {
	stand, missing := w.sort()
	s := "stand: " + strings.Join(stand, ", ")
	if len(missing) > 0 {
		s += "; missing: " + strings.Join(missing, ", ")
	}
	return s
}

// Files reports whether files outside of the folder are out of reach.
func (w Walls) Files() bool { return w.Landlock > 0 || w.User && w.Root }

func (w Walls) sort() (stand, missing []string) {
	for _, wall := range []struct {
		name   string
		stands bool
	}{
		{"own user", w.User},
		{"own root folder", w.Root},
		{fmt.Sprintf("Landlock %d", w.Landlock), w.Landlock > 0},
		{"seccomp", w.Seccomp},
		{"no new privileges", w.NoNewPrivs},
		{"no debugging", w.Undebugable},
	} {
		if wall.stands {
			stand = append(stand, wall.name)
		} else {
			missing = append(missing, strings.TrimSuffix(wall.name, " 0"))
		}
	}
	return stand, missing
}

// Enter puts the walls up around the calling process, all its threads
// included, but of a Program around the calling thread, which has to be
// locked and is about to call exec. It returns which of them stand: an error
// is of a wall that the kernel has and that fell all the same.
func (r Room) Enter() (w Walls, err error) {
	if err := r.Limits.set(); err != nil {
		return w, err
	}
	if err := os.Chdir(r.Dir); err != nil {
		return w, fmt.Errorf("enter folder: %w", err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	w.NoNewPrivs = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == nil
	// Before the change of root folder: it needs /proc.
	if err := r.landlock(&w); err != nil {
		return w, err
	}
	if r.Program {
		w.User = os.Geteuid() >= firstUID || os.Geteuid() == nobody
		// What was open when packbase itself was started, say.
		_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	} else {
		if err := r.leaveRoot(&w); err != nil {
			return w, err
		}
		w.Undebugable = Hide() == nil // exec would undo it
	}
	w.Seccomp, err = loadFilter(r.Program)
	return w, err
}

// Hide keeps other processes of the same user from reading this one's memory
// and environment, and marks every open file to be closed in programs that it
// starts.
func Hide() error {
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) // since Linux 5.11; Go marks its own
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("hide process: %w", err)
	}
	return nil
}

// leaveRoot makes the folder the root folder and its owner, a user that nobody
// else is, this process's user.
func (r Room) leaveRoot(w *Walls) error {
	if !able(unix.CAP_SYS_CHROOT, unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_CHOWN) {
		return nil
	}
	uid, err := Give(".")
	if err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change root folder: %w", err)
	}
	// The change of user clears the signal at the parent's death.
	var death int32
	err = unix.Prctl(unix.PR_GET_PDEATHSIG, uintptr(unsafe.Pointer(&death)), 0, 0, 0)
	if err != nil {
		return fmt.Errorf("change user: %w", err)
	}
	// These are package syscall's as they reach all threads.
	err = errors.Join(syscall.Setgroups(nil), syscall.Setresgid(uid, uid, uid), syscall.Setresuid(uid, uid, uid),
		unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(death), 0, 0, 0))
	if err != nil {
		return fmt.Errorf("change user: %w", err)
	}
	w.User, w.Root = true, true
	return nil
}

// Users from firstUID on are nobody's: systemd, the shadow tools and Linux
// distributions leave them alone.
const (
	firstUID = 0x7000_0000
	uids     = 1 << 27
	nobody   = 65534 // where only some users exist, as in a container
)

// Give makes dir and all in it a new user's own, and returns that.
func Give(dir string) (uid int, err error) {
	uid = firstUID + rand.IntN(uids)
	if err := os.Lchown(dir, uid, uid); errors.Is(err, unix.EINVAL) {
		uid = nobody
	}
	err = filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(name, uid, uid))
	})
	if err != nil {
		return 0, fmt.Errorf("give folder away: %w", err)
	}
	return uid, nil
}

// able reports whether this process has all the capabilities.
func able(caps ...int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&header, &have[0]); err != nil {
		return false
	}
	for _, c := range caps {
		if have[c/32].Effective&(1<<(c%32)) == 0 {
			return false
		}
	}
	return true
}

func (r Room) landlock(w *Walls) error {
	if w.Landlock = landlockVersion(); w.Landlock == 0 {
		return nil
	}
	own := landlock.RWDirs(".")
	if r.Program {
		own = own.WithRefer() // it may move files from folder to folder
	}
	rules := []landlock.Rule{own}
	if r.Program {
		rules = append(rules, landlock.RODirs(dirs(r.Read)...).IgnoreIfMissing(), landlock.ROFiles(files(r.Read)...).IgnoreIfMissing(),
			landlock.RWFiles("/dev/null").IgnoreIfMissing())
	}
	if r.Port != 0 {
		rules = append(rules, landlock.ConnectTCP(r.Port))
	}
	if err := landlock.V9.BestEffort().Restrict(rules...); err != nil {
		return fmt.Errorf("landlock: %w", err)
	}
	return nil
}

// landlockVersion returns the version that the kernel has in force, or 0.
// landlock_create_ruleset(2), LANDLOCK_CREATE_RULESET_VERSION.
func landlockVersion() int {
	v, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(v)
}

func dirs(paths []string) []string  { return only(paths, true) }
func files(paths []string) []string { return only(paths, false) }

func only(paths []string, folders bool) (some []string) {
	for _, p := range paths {
		if info, err := os.Stat(p); err == nil && info.IsDir() == folders {
			some = append(some, p)
		}
	}
	return some
}

func (l Limits) set() error {
	for _, s := range []struct {
		what     int
		name     string
		cur, max uint64
	}{
		{unix.RLIMIT_AS, "memory", uint64(l.Memory), uint64(l.Memory)},
		// At the first limit the kernel sends SIGXCPU, at the second SIGKILL.
		{unix.RLIMIT_CPU, "processor time", uint64(l.CPU.Seconds()), uint64(l.CPU.Seconds()) + 1},
		{unix.RLIMIT_FSIZE, "file size", uint64(l.File), uint64(l.File)},
		{unix.RLIMIT_NOFILE, "open files", l.Files, l.Files},
		{unix.RLIMIT_NPROC, "processes", l.Processes, l.Processes},
		{unix.RLIMIT_CORE, "core file", 0, 0},
	} {
		if s.what == unix.RLIMIT_NPROC && s.max == 0 {
			continue
		}
		if err := unix.Setrlimit(s.what, &unix.Rlimit{Cur: s.cur, Max: s.max}); err != nil {
			return fmt.Errorf("limit %s: %w", s.name, err)
		}
	}
	return nil
}
