package fusefs

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/test/testenv"
)

// TestLostBits is setattr_should_drop_suidgid() of the kernel.
func TestLostBits(t *testing.T) {
	for _, tc := range []struct {
		mode   uint32
		member bool
		want   uint32
	}{
		{0o6777, false, 0o6000},
		{0o6777, true, 0o6000}, // the group may run it
		{0o6767, false, 0o6000},
		{0o6767, true, 0o4000},
		{0o4755, true, 0o4000},
		{0o2711, true, 0o6000},
	} {
		if got := lostBits(tc.mode, tc.member) & 0o7777; got != tc.want {
			t.Errorf("%#o, member %v: %#o, want %#o", tc.mode, tc.member, got, tc.want)
		}
	}
}

// Root of a user namespace that does not have the owners of a directory may not make a
// program there that runs with the directory's group.
func TestStripSetgidFromRootOfAUserNamespace(t *testing.T) {
	testenv.RequireRoot(t)
	f, _ := without(t, 64)
	f.kernel.Flags &^= fuse.CAP_CREATE_SUPP_GROUP // as of a kernel before 6.0
	pidOf := func(attr *syscall.SysProcAttr) uint32 {
		cmd := exec.Command("sleep", "1000")
		cmd.SysProcAttr = attr
		if err := cmd.Start(); err != nil {
			testenv.Skip(t, testenv.NeedKernel, "user namespaces: "+err.Error())
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		return uint32(cmd.Process.Pid)
	}
	one := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1000, Size: 1}}
	inside := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: one, GidMappings: one, Credential: &syscall.Credential{NoSetGroups: true}}
	const mode = unix.S_IFREG | unix.S_ISGID | 0o775
	for _, c := range []struct {
		name string
		pid  uint32
		want uint32
	}{
		{"root", uint32(os.Getpid()), mode},
		{"a user", pidOf(&syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}), mode &^ unix.S_ISGID},
		{"a member", pidOf(&syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000, Groups: []uint32{7}}}), mode},
		{"root of a user namespace", pidOf(inside), mode &^ unix.S_ISGID},
		{"nobody known", 0, mode &^ unix.S_ISGID},
	} {
		dir := unix.Stat_t{Mode: unix.S_IFDIR | unix.S_ISGID | 0o777, Gid: 7}
		if got := f.stripSetgid(&fuse.InHeader{Caller: fuse.Caller{Pid: c.pid}}, &dir, 1000, mode); got != c.want {
			t.Errorf("%s: mode %o, want %o", c.name, got, c.want)
		}
	}
}
