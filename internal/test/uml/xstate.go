package uml

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"

	"github.com/idmount/idmount/internal/sys"
)

// On processors with AMX the extended register state has some 11 kB. Kernels
// before Linux 7 have room for 2696 bytes of it, and ptrace(2) of the host takes
// all of it or none: they die at their first process ("ptrace set fp regs
// failed"). Where the host refuses the request for that state when they start,
// they take to the older one, of the 512 bytes that hold the SSE registers. So
// it is made to refuse.
//
// The guest's kernel then does not keep the upper halves of the AVX registers
// apart for the threads of one process, and they must not use them: see noAVX.

// noAVX is what keeps Go's and C's libraries from using AVX in the guest. glibc's
// memmove(3) has an AVX_Fast_Unaligned_Load of its own, which is decided before the
// rest is taken away.
var noAVX = []string{
	"GODEBUG=cpu.avx=off,cpu.avx2=off,cpu.fma=off,cpu.avx512f=off,cpu.avx512cd=off,cpu.avx512bw=off,cpu.avx512dq=off,cpu.avx512vl=off",
	"GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-FMA,-AVX512F,-AVX512CD,-AVX512BW,-AVX512DQ,-AVX512VL,-AVX_Fast_Unaligned_Load",
}

// smallState reports whether the kernel needs the older request on this host.
func (k *Kernel) smallState() bool {
	if k.Suite == "sid" {
		return false // learns the size from the host
	}
	info, err := os.ReadFile("/proc/cpuinfo")
	return err == nil && bytes.Contains(info, []byte(" amx_tile"))
}

// startWithoutXState starts a program that is refused PTRACE_GETREGSET and
// PTRACE_SETREGSET of NT_X86_XSTATE. The program inherits the filter from a
// thread that ends afterwards.
func startWithoutXState(cmd *exec.Cmd) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread has the filter
		err := sys.RefuseXState()
		if err == nil {
			err = cmd.Start()
		}
		result <- err
	}()
	return <-result
}
