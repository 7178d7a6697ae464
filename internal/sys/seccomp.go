package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// RefuseXState has the kernel answer EINVAL when the calling thread, or a process
// that it starts, asks by ptrace(2) for the extended state of another's registers
// (NT_X86_XSTATE), for good. The thread should end soon.
func RefuseXState() error {
	const (
		getRegset, setRegset = 0x4204, 0x4205
		xstate               = 0x202 // NT_X86_XSTATE
		// Of struct seccomp_data; the lower halves of the arguments.
		nr, arch, arg0, arg2 = 0, 4, 16, 32
	)
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	jump := func(value uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: yes, Jf: no, K: value}
	}
	ret := func(value uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: value}
	}
	program := []unix.SockFilter{
		load(arch), jump(unix.AUDIT_ARCH_X86_64, 0, 8),
		load(nr), jump(unix.SYS_PTRACE, 0, 6),
		load(arg0), jump(getRegset, 1, 0), jump(setRegset, 0, 3),
		load(arg2), jump(xstate, 0, 1),
		ret(unix.SECCOMP_RET_ERRNO | uint32(unix.EINVAL)),
		ret(unix.SECCOMP_RET_ALLOW),
	}
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return &Error{Op: "seccomp", Err: errno}
	}
	return nil
}
