//go:build amd64 || arm64

package confine

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A call is a system call that a filter decides about, whatever its arguments
// or, if arg is not 0, where the bits of mask in that argument, counted from
// 1, are value.
type call struct {
	number      uint32
	arg         uint32
	mask, value uint32
}

func calls(numbers ...uint32) (list []call) {
	for _, n := range numbers {
		list = append(list, call{number: n})
	}
	return list
}

// ours are the calls of a Go program that computes, with files and sockets
// that are open or below folders that it may open. All others fail.
func ours() []call {
	list := append(calls(append(archCalls,
		unix.SYS_READ, unix.SYS_WRITE, unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_PREAD64, unix.SYS_PWRITE64, unix.SYS_CLOSE,
		unix.SYS_LSEEK, unix.SYS_FSTAT, unix.SYS_FSTATFS, unix.SYS_OPENAT, unix.SYS_MKDIRAT, unix.SYS_UNLINKAT,
		unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_READLINKAT, unix.SYS_FACCESSAT, unix.SYS_FACCESSAT2, unix.SYS_GETDENTS64, unix.SYS_GETCWD,
		unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE, unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_FADVISE64,
		unix.SYS_COPY_FILE_RANGE, unix.SYS_SENDFILE, unix.SYS_SPLICE, unix.SYS_DUP, unix.SYS_DUP3, unix.SYS_PIPE2,
		unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EVENTFD2, unix.SYS_PPOLL,
		unix.SYS_RECVMSG, unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME, unix.SYS_GETSOCKOPT, unix.SYS_SETSOCKOPT, unix.SYS_SHUTDOWN,
		unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MREMAP, unix.SYS_MPROTECT, unix.SYS_MADVISE, unix.SYS_MINCORE, unix.SYS_BRK,
		unix.SYS_FUTEX, unix.SYS_SET_ROBUST_LIST, unix.SYS_GET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_MEMBARRIER, unix.SYS_SET_TID_ADDRESS,
		unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK,
		unix.SYS_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_GETTIMEOFDAY, unix.SYS_RESTART_SYSCALL,
		unix.SYS_TIMER_CREATE, unix.SYS_TIMER_SETTIME, unix.SYS_TIMER_DELETE, unix.SYS_SETITIMER,
		unix.SYS_GETPID, unix.SYS_GETPPID, unix.SYS_GETTID, unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID,
		unix.SYS_GETRLIMIT, unix.SYS_GETRUSAGE, unix.SYS_UNAME, unix.SYS_SYSINFO, unix.SYS_GETRANDOM,
		unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_EXIT, unix.SYS_EXIT_GROUP)...),
		// Threads, and signals to them; no processes.
		call{unix.SYS_CLONE, 1, unix.CLONE_THREAD, unix.CLONE_THREAD},
		call{unix.SYS_TGKILL, 1, ^uint32(0), uint32(os.Getpid())},
		call{unix.SYS_PRLIMIT64, 1, ^uint32(0), 0},
		// A connection that its other end has reset would go to wherever this says.
		call{unix.SYS_SENDMSG, 3, unix.MSG_FASTOPEN, 0},
	)
	// Not those that have the kernel send a signal.
	for _, cmd := range []uint32{unix.F_GETFD, unix.F_SETFD, unix.F_GETFL, unix.F_SETFL, unix.F_DUPFD_CLOEXEC} {
		list = append(list, call{unix.SYS_FCNTL, 2, ^uint32(0), cmd})
	}
	return list
}

// refused are calls that a program like Zig does not need, and that reach
// other processes, the kernel's less known corners or sockets other than TCP.
func refused() []call {
	list := calls(append(archRefused,
		unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PROCESS_MADVISE, unix.SYS_KCMP,
		unix.SYS_KILL, unix.SYS_TKILL, unix.SYS_RT_SIGQUEUEINFO, unix.SYS_RT_TGSIGQUEUEINFO,
		unix.SYS_PIDFD_OPEN, unix.SYS_PIDFD_GETFD, unix.SYS_PIDFD_SEND_SIGNAL,
		unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_UNSHARE, unix.SYS_SETNS,
		unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT, unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR,
		unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_FANOTIFY_INIT,
		unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
		unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_NAME_TO_HANDLE_AT,
		unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_REBOOT,
		unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME, unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT, unix.SYS_QUOTACTL,
		unix.SYS_LISTEN, unix.SYS_SOCKETPAIR,
		unix.SYS_SETPRIORITY, unix.SYS_IOPRIO_SET, unix.SYS_SCHED_SETPARAM, unix.SYS_SCHED_SETSCHEDULER, unix.SYS_SCHED_SETATTR, unix.SYS_SCHED_SETAFFINITY,
		unix.SYS_MIGRATE_PAGES, unix.SYS_MOVE_PAGES,
		// Whoever leaves the group outlives it, and is not counted with it. What these make is there until the machine ends.
		unix.SYS_SETSID, unix.SYS_SETPGID,
		unix.SYS_SHMGET, unix.SYS_SEMGET, unix.SYS_MSGGET, unix.SYS_MQ_OPEN)...)
	// The limits of all processes of its user can be set by that.
	list = append(list, except(unix.SYS_PRLIMIT64, 1, 0)...)
	// Zig's threads wake each other by this signal, of which a Go program takes no notice.
	list = append(list, except(unix.SYS_TGKILL, 3, uint32(unix.SIGIO))...)
	for _, cmd := range []uint32{unix.F_SETOWN, unix.F_SETOWN_EX, unix.F_SETSIG} {
		list = append(list, call{unix.SYS_FCNTL, 2, ^uint32(0), cmd})
	}
	for _, request := range []uint32{fiosetown, siocspgrp} {
		list = append(list, call{unix.SYS_IOCTL, 2, ^uint32(0), request})
	}
	for _, space := range []uint32{unix.CLONE_NEWUSER, unix.CLONE_NEWNS, unix.CLONE_NEWPID, unix.CLONE_NEWNET, unix.CLONE_NEWIPC, unix.CLONE_NEWUTS, unix.CLONE_NEWCGROUP} {
		list = append(list, call{unix.SYS_CLONE, 1, space, space})
	}
	for family := range uint32(unix.AF_MAX) {
		if family != unix.AF_INET && family != unix.AF_INET6 {
			list = append(list, call{unix.SYS_SOCKET, 1, ^uint32(0), family})
		}
	}
	for kind := range uint32(0x10) { // DCCP, too
		if kind != unix.SOCK_STREAM {
			list = append(list, call{unix.SYS_SOCKET, 2, 0xf, kind})
		}
	}
	// TCP that is not TCP, such as MPTCP, Landlock does not see.
	for _, protocol := range []uint32{unix.IPPROTO_MPTCP, unix.IPPROTO_SCTP, ipprotoSMC} {
		list = append(list, call{unix.SYS_SOCKET, 3, ^uint32(0), protocol})
	}
	list = append(list, call{unix.SYS_SETSOCKOPT, 3, ^uint32(0), unix.TCP_ULP}) // makes TCP SMC, too
	// Whoever sends before a connection stands makes one that Landlock is not asked about. tcp(7), MSG_FASTOPEN.
	for _, send := range []call{{number: unix.SYS_SENDTO, arg: 4}, {number: unix.SYS_SENDMSG, arg: 3}, {number: unix.SYS_SENDMMSG, arg: 4}} {
		list = append(list, call{send.number, send.arg, unix.MSG_FASTOPEN, unix.MSG_FASTOPEN})
	}
	return list
}

const ipprotoSMC = 0x100 // since Linux 6.10

// Requests that have the kernel send a signal, as F_SETOWN does. ioctl_sockios(2).
const fiosetown, siocspgrp = 0x8901, 0x8902

// except are the calls of a number whose argument is not own.
func except(number, arg, own uint32) (list []call) {
	for bit := uint32(1); bit != 0; bit <<= 1 {
		list = append(list, call{number, arg, bit, ^own & bit})
	}
	return list
}

// loadFilter filters the system calls of all threads from now on, and says
// whether there is a filter for this machine. seccomp(2).
func loadFilter(program bool) (bool, error) {
	list, match, other := ours(), uint32(unix.SECCOMP_RET_ALLOW), errno(unix.EPERM)
	if program {
		list, match, other = refused(), other, match
	}
	code := filter(list, match, other)
	prog := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	thread, _, err := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	switch {
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL):
		return false, nil // a kernel without it
	case err != 0:
		return false, fmt.Errorf("seccomp: %w", err)
	case thread != 0:
		return false, fmt.Errorf("seccomp: thread %d does not take the filter", thread)
	}
	return true, nil
}

func errno(e unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(e) }

// filter compiles to classic BPF over struct seccomp_data: the number of the
// call, the architecture, an address, and six arguments of 64 bits, of which
// the lower half counts here. A call of list answers match, any other one
// other.
func filter(list []call, match, other uint32) []unix.SockFilter {
	const number, arch, args = 0, 4, 16
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	answer := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	unless := func(k uint32, skip uint8) unix.SockFilter { // skip instructions unless equal
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jf: skip}
	}
	code := []unix.SockFilter{
		load(arch), {Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: auditArch, Jt: 1}, answer(unix.SECCOMP_RET_KILL_PROCESS),
		load(number),
		// The x32 calls of amd64 have a bit of their own; elsewhere there are none.
		{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, K: 1 << 30, Jf: 1}, answer(errno(unix.ENOSYS)),
		// Its flags lie in memory, where no filter sees them: C libraries then
		// use clone.
		unless(unix.SYS_CLONE3, 1), answer(errno(unix.ENOSYS)),
	}
	for _, c := range list {
		if c.arg == 0 {
			code = append(code, unless(c.number, 1), answer(match))
			continue
		}
		code = append(code, unless(c.number, 5), load(args+8*(c.arg-1)),
			unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: c.mask},
			unless(c.value, 1), answer(match), load(number))
	}
	return append(code, answer(other))
}
