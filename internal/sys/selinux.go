package sys

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// RunsSELinux reports whether the kernel runs SELinux, which then has its file system.
// That need not be mounted here: containers often do without.
func RunsSELinux() bool {
	text, err := os.ReadFile("/proc/filesystems")
	return err == nil && strings.Contains(string(text), "\tselinuxfs\n")
}

// CreationLabel is where a thread says which SELinux label the files that it makes get.
const CreationLabel = "/proc/thread-self/attr/fscreate"

// WithCreationLabel calls fn, whose new files get an SELinux label, as setfscreatecon(3)
// gives them one: nobody sees them with another. path is CreationLabel but for tests. An
// error means that fn was not called.
//
// If the thread can't be given its old state the process ends: it must not give files of
// another caller this label.
func WithCreationLabel(path string, label []byte, fn func()) unix.Errno {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// One descriptor for both, so that no limit keeps the label from being cleared.
	fd, errno := OpenAt(unix.AT_FDCWD, path, unix.O_WRONLY, 0)
	if errno != 0 {
		return errno
	}
	defer unix.Close(fd)
	if errno := writeLabel(fd, label); errno != 0 {
		return errno
	}
	defer func() {
		errno := writeLabel(fd, nil)
		for ; errno == unix.ENOMEM; errno = writeLabel(fd, nil) { // a memory limit, for now
			time.Sleep(time.Millisecond)
		}
		if errno != 0 {
			// On a goroutine of its own, where no caller can recover from it.
			go panic(fmt.Sprintf("sys: clear the creation label of a thread: %v", errno))
			select {}
		}
	}()
	fn()
	return 0
}

// writeLabel sets the label, or clears it if it is empty. The kernel takes a label in one
// piece, at offset 0.
func writeLabel(fd int, label []byte) unix.Errno {
	for {
		n, err := unix.Pwrite(fd, label, 0)
		switch errno := Errno(err); {
		case errno == unix.EINTR:
		case errno != 0:
			return errno
		case n != len(label):
			return unix.EIO
		default:
			return 0
		}
	}
}
