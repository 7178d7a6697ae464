package rootfs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/test/treecmp"
)

// The test program runs itself in other namespaces, in the directory to work on;
// these are what it is then told to do, by the variable insideEnv.
const (
	insideEnv   = "IDMOUNT_ROOTFS_INSIDE"
	insideScan  = "scan"  // write the tree as JSON
	insideShell = "shell" // run the script on standard input in the root
)

// first and count are the ids of the container: what the mount shows as
// first… is the container's 0….
const (
	first = 100000
	count = 65536
)

// isolated are the namespaces, but for the user's, that a shell gets.
const isolated = syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWNET

// container returns what makes a process container root.
func container(flags uintptr) *syscall.SysProcAttr {
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: first, Size: count}}
	return &syscall.SysProcAttr{
		Cloneflags:                 syscall.CLONE_NEWUSER | flags,
		UidMappings:                ids,
		GidMappings:                ids,
		GidMappingsEnableSetgroups: true,
		Credential:                 &syscall.Credential{},
		Pdeathsig:                  syscall.SIGKILL,
	}
}

// inside starts the test program again in the directory root, with the given
// attributes.
func inside(t testing.TB, what, root string, attr *syscall.SysProcAttr, stdin string) (stdout []byte, err error) {
	t.Helper()
	// Pdeathsig goes by the thread that starts the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var out, errs bytes.Buffer
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{
		insideEnv + "=" + what,
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive",
	}
	cmd.Dir = root
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.SysProcAttr = attr
	if err := cmd.Run(); err != nil {
		return out.Bytes(), fmt.Errorf("%s in %s: %w\n%s%s", what, root, err, out.Bytes(), errs.Bytes())
	}
	return out.Bytes(), nil
}

// containerScan scans root as container root sees it.
func containerScan(t testing.TB, root string) treecmp.Tree {
	t.Helper()
	out, err := inside(t, insideScan, root, container(0), "")
	if err != nil {
		t.Fatal(err)
	}
	var tree treecmp.Tree
	if err := json.Unmarshal(out, &tree); err != nil {
		t.Fatal(err)
	}
	return tree
}

// containerShell runs a script as root of a container on root and returns what
// it writes to standard output.
func containerShell(t testing.TB, root, script string) (string, error) {
	t.Helper()
	out, err := inside(t, insideShell, root, container(isolated), script)
	return string(out), err
}

// initShell runs a script in root as root of the initial user namespace.
func initShell(t testing.TB, root, script string) (string, error) {
	t.Helper()
	out, err := inside(t, insideShell, root, &syscall.SysProcAttr{
		Cloneflags: isolated,
		Pdeathsig:  syscall.SIGKILL,
	}, script)
	return string(out), err
}

// insideMain is the main function of the processes that inside starts.
func insideMain(what string) int {
	if err := insideRun(what); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func insideRun(what string) error {
	switch what {
	case insideScan:
		tree, err := treecmp.Scan(".")
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(tree)
	case insideShell:
		// Nothing mounted here may reach the namespace of the test.
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
			return fmt.Errorf("make / a slave: %w", err)
		}
		// The new process id namespace needs its own proc.
		if err := unix.Mount("proc", "proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			return fmt.Errorf("mount proc: %w", err)
		}
		if err := unix.Chroot("."); err != nil {
			return fmt.Errorf("chroot: %w", err)
		}
		if err := loopbackUp(); err != nil {
			return fmt.Errorf("loopback interface: %w", err)
		}
		unix.Umask(0o022)
		return fmt.Errorf("exec /bin/sh: %w", unix.Exec("/bin/sh", []string{"sh", "-eus"}, os.Environ()))
	}
	return fmt.Errorf("%s=%s: unknown", insideEnv, what)
}

// loopbackUp brings up the network's loopback interface: a new network
// namespace has it, but down.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}
