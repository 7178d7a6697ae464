package fusefs

import (
	"encoding/binary"
	"fmt"
	"os"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// serverTransport is go-fuse's own loop.
type serverTransport struct {
	server *fuse.Server
	dev    *os.File // another descriptor of the connection
	done   chan struct{}
}

// newServerTransport answers INIT on dev, which stays the caller's.
func newServerTransport(dev *os.File, fs fuse.RawFileSystem, o *fuse.MountOptions) (transport, kernelInit, error) {
	own, err := duplicate(dev)
	if err != nil {
		return nil, kernelInit{}, err
	}
	fd, err := unix.FcntlInt(dev.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		own.Close()
		return nil, kernelInit{}, &sys.Error{Op: "fcntl", Path: dev.Name(), Err: err}
	}
	server, err := fuse.NewServer(fs, fmt.Sprintf("/dev/fd/%d", fd), o) // fd is the server's from here on
	if err != nil {
		own.Close()
		return nil, kernelInit{}, err
	}
	said := server.KernelSettings()
	t := &serverTransport{server: server, dev: own, done: make(chan struct{})}
	return t, kernelInit{flags: said.Flags64(), minor: said.Minor}, nil
}

func duplicate(dev *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(dev.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, &sys.Error{Op: "fcntl", Path: dev.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), dev.Name()), nil
}

func (t *serverTransport) registerBacking(fd int) (int32, unix.Errno) {
	return t.server.RegisterBackingFd(&fuse.BackingMap{Fd: int32(fd)})
}

func (t *serverTransport) unregisterBacking(id int32) unix.Errno {
	return t.server.UnregisterBackingFd(id)
}

func (t *serverTransport) invalidateEntry(parent uint64, name string) unix.Errno {
	const (
		notifyInvalEntry = 3 // FUSE_NOTIFY_INVAL_ENTRY
		expireOnly       = 1 // FUSE_EXPIRE_ONLY
	)
	// struct fuse_out_header, struct fuse_notify_inval_entry_out, the name and a zero byte
	message := make([]byte, 16+16+len(name)+1)
	binary.NativeEndian.PutUint32(message[0:], uint32(len(message)))
	binary.NativeEndian.PutUint32(message[4:], notifyInvalEntry)
	binary.NativeEndian.PutUint64(message[16:], parent)
	binary.NativeEndian.PutUint32(message[24:], uint32(len(name)))
	binary.NativeEndian.PutUint32(message[28:], expireOnly)
	copy(message[32:], name)
	_, err := t.dev.Write(message)
	return sys.Errno(err)
}

func (t *serverTransport) invalidateInode(id uint64, off, length int64) unix.Errno {
	return unix.Errno(t.server.InodeNotify(id, off, length))
}

func (t *serverTransport) increaseEpoch() unix.Errno {
	const incEpoch = 8 // FUSE_NOTIFY_INC_EPOCH
	var head [16]byte  // struct fuse_out_header; unique 0 says that it answers nothing
	binary.NativeEndian.PutUint32(head[0:], uint32(len(head)))
	binary.NativeEndian.PutUint32(head[4:], incEpoch)
	_, err := t.dev.Write(head[:])
	errno := sys.Errno(err)
	if errno == unix.EINVAL { // a kernel that does not know this code
		errno = unix.ENOSYS
	}
	return errno
}

func (t *serverTransport) serve() {
	go func() {
		defer close(t.done)
		t.server.Serve()
		t.dev.Close()
	}()
}

func (t *serverTransport) wait() { <-t.done }
