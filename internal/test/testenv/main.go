package testenv

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// privateEnv tells a re-executed test binary that it is in its own namespace.
const privateEnv = "IDMOUNT_TESTENV_PRIVATE"

// Main runs the tests of m and exits. For root it first re-executes the binary
// in a private mount namespace. After passing tests it exits with 1 if they
// have left open descriptors, mounts or processes behind.
func Main(m *testing.M) {
	if spec, ok := os.LookupEnv(agentEnv); ok {
		runAgent(spec) // never returns
	}
	if os.Geteuid() == 0 && os.Getenv(privateEnv) == "" && !Quick() {
		if err := execPrivate(); err != nil {
			fmt.Fprintln(os.Stderr, "testenv:", err)
			os.Exit(2)
		}
	}
	_ = os.Unsetenv(privateEnv)

	before := takeState()
	code := m.Run()
	removeBinary()
	if code == 0 {
		if leaks := waitForLeaks(before); len(leaks) > 0 {
			fmt.Fprintln(os.Stderr, "testenv: the tests have left behind:\n  "+strings.Join(leaks, "\n  "))
			code = 1
		}
	}
	os.Exit(code)
}

// execPrivate runs this binary again, as the same process, in a new mount
// namespace from which nothing propagates. Unsharing alone would move one
// thread only; the exec ends all the others.
func execPrivate() error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare (mount namespace): %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mount / (recursive private): %w", err)
	}
	err := syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), privateEnv+"=1"))
	return fmt.Errorf("exec /proc/self/exe: %w", err)
}

// state is what a test must leave as it was.
type state map[string]bool

func takeState() state {
	s := state{}
	for _, f := range openFiles() {
		s[f] = true
	}
	for _, m := range mounts() {
		s[m] = true
	}
	for _, p := range processes() {
		s[p] = true
	}
	return s
}

func waitForLeaks(before state) []string {
	// A FUSE server ends a moment after its mount.
	var leaks []string
	Becomes(func() bool {
		leaks = nil
		for what := range takeState() {
			if !before[what] {
				leaks = append(leaks, what)
			}
		}
		return len(leaks) == 0
	})
	sort.Strings(leaks)
	return leaks
}

// openFiles lists the descriptors of this process, but for those which the
// runtime and the testing package open for themselves.
func openFiles() []string {
	var out []string
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || strings.HasPrefix(target, "anon_inode:[event") || strings.HasPrefix(target, "anon_inode:[pidfd") ||
			strings.HasSuffix(target, "/fd") || strings.HasSuffix(target, "/testlog.txt") {
			continue
		}
		out = append(out, "descriptor "+e.Name()+" of "+target)
	}
	return out
}

func mounts() []string {
	var out []string
	infos, _ := mountinfo.GetMounts(nil)
	for _, i := range infos {
		out = append(out, fmt.Sprintf("mount %d of %s at %s", i.ID, i.FSType, i.Mountpoint))
	}
	return out
}

// processes lists the other processes in this mount namespace. With the
// namespace being private they were all started by the tests, daemons that
// have long detached themselves included. Servers of mounts are in namespaces of
// their own, and known by the program that Binary has built for these tests.
// Without root, and in make check, there is no private namespace, and nothing is
// listed.
func processes() []string {
	if os.Geteuid() != 0 || Quick() {
		return nil
	}
	self, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return nil
	}
	var out []string
	links, _ := filepath.Glob("/proc/[0-9]*/ns/mnt")
	for _, link := range links {
		pid := strings.Split(link, "/")[2]
		ns, err := os.Readlink(link)
		if err != nil || ns != self && !runsBinary(pid) || pid == fmt.Sprint(os.Getpid()) {
			continue
		}
		cmd, _ := os.ReadFile("/proc/" + pid + "/cmdline")
		out = append(out, "process "+pid+" "+strings.ReplaceAll(strings.TrimRight(string(cmd), "\x00"), "\x00", " "))
	}
	return out
}
