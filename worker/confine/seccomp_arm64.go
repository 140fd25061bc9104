package confine

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_AARCH64

// Calls that other machines have not, or under other names.
var (
	archCalls   = []uint32{unix.SYS_FSTATAT}
	archRefused = []uint32{unix.SYS_KEXEC_FILE_LOAD}
)
