package fusefs

import (
	"bytes"
	"encoding/binary"
	"sync/atomic"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// The opcodes that carry the label of a new file (FUSE_SECURITY_CTX, Linux 5.17).
const (
	wireSymlink = 6
	wireMknod   = 8
	wireMkdir   = 9
	wireTmpfile = 51
)

// xattrSELinux is where a file system keeps a label, and the name of one in a request.
const xattrSELinux = "security.selinux"

// labels gives new files the SELinux labels that the kernel has chosen for them.
//
// The kernel sends labels with every mount on a host with SELinux. They are those of the
// source only where the FUSE mount shows the labels of the source. With context=, or
// without fs_use_xattr for fuse in the policy, they follow from the one label that the
// mount shows, and would be wrong on disk. SELinux asks the server for the label of the
// root in the first case and in no other: see asked.
type labels struct {
	path  string      // sys.CreationLabel but for tests
	asked atomic.Bool // SELinux has asked for a label
}

// newLabels returns nil where the server may not choose labels: the process needs
// setfscreate of its own domain. What clears a label asks for that permission, too.
func newLabels(path string) (*labels, unix.Errno) {
	if errno := sys.WithCreationLabel(path, nil, func() {}); errno != 0 {
		return nil, errno
	}
	return &labels{path: path}, 0
}

// see notes that the kernel has asked for an attribute. getxattr(2) of security.selinux is
// answered by SELinux itself, so that only SELinux asks.
func (l *labels) see(name string) {
	if l != nil && name == xattrSELinux && !l.asked.Load() {
		l.asked.Store(true)
	}
}

// handle calls handler with a message, so that what it makes gets the label of the
// message, if there is one. The extension is cut off the message, in place.
func (l *labels) handle(in, out [][]byte, handler func(in, out [][]byte) (int, bool)) (int, bool) {
	if l == nil {
		return handler(in, out)
	}
	label, errno := cutLabel(in)
	if errno == 0 && label != nil && l.asked.Load() {
		var n int
		var ok bool
		label = bytes.Clone(label) // the answer may take its place
		if errno = sys.WithCreationLabel(l.path, label, func() { n, ok = handler(in, out) }); errno == 0 {
			return n, ok
		}
	}
	if errno != 0 {
		// No file rather than one with another label.
		unique := structure[fuse.InHeader](in).Unique
		binary.NativeEndian.PutUint32(out[0][0:], uint32(answerHeader))
		binary.NativeEndian.PutUint32(out[0][4:], uint32(-int32(errno)))
		binary.NativeEndian.PutUint64(out[0][8:], unique)
		return answerHeader, true
	}
	return handler(in, out)
}

// maxLabel is the longest label that the kernel takes by /proc: a page.
const maxLabel = 4096

// cutLabel returns the SELinux label in a message that makes a file, nil if there is
// none, and cuts its extension off. EIO is for an extension that the kernel does not send.
//
// The extension is what is behind the names: struct fuse_secctx_header, and for each
// context struct fuse_secctx, its name with a NUL, its value, and padding to 8 bytes. Since
// Linux 6.3 the message's header has its length in units of 8 bytes; before, 0.
func cutLabel(in [][]byte) (label []byte, errno unix.Errno) {
	m := message(in)
	h := structure[fuse.InHeader](m)
	if h == nil {
		return nil, 0
	}
	names, size := 1, uintptr(0)
	switch h.Opcode {
	case wireSymlink:
		names, size = 2, unsafe.Sizeof(fuse.InHeader{})
	case wireMknod:
		size = unsafe.Sizeof(fuse.MknodIn{})
	case wireMkdir:
		size = unsafe.Sizeof(fuse.MkdirIn{})
	case wireCreate, wireTmpfile:
		size = unsafe.Sizeof(fuse.CreateIn{})
	default:
		return nil, 0
	}
	if uintptr(len(m[0])) < size {
		return nil, unix.EIO
	}
	last := len(m) - 1
	start := 0 // of the extension, in the last piece
	if last == 0 {
		start = int(size)
	}
	for range names {
		end := bytes.IndexByte(m[last][start:], 0)
		if end < 0 {
			return nil, unix.EIO
		}
		start += end + 1
	}
	ext := m[last][start:]
	if n := int(h.TotalExtlen) * 8; n != 0 && n != len(ext) {
		return nil, unix.EIO
	}
	if label, errno = parseLabel(ext); errno == 0 {
		m[last] = m[last][:start:start]
		h.TotalExtlen = 0
	}
	return label, errno
}

// parseLabel reads an extension, which may be empty. Labels of other security modules are
// left out: the source's own rules are for them.
func parseLabel(ext []byte) (label []byte, errno unix.Errno) {
	if len(ext) == 0 {
		return nil, 0
	}
	const header, each, most = 8, 8, 31 // FUSE_MAX_NR_SECCTX; above are other extensions
	if len(ext) < header {
		return nil, unix.EIO
	}
	size, count := binary.NativeEndian.Uint32(ext), binary.NativeEndian.Uint32(ext[4:])
	if uint64(size) != uint64(len(ext)) || count > most {
		return nil, unix.EIO
	}
	rest := ext[header:]
	for range count {
		if len(rest) < each {
			return nil, unix.EIO
		}
		size := uint64(binary.NativeEndian.Uint32(rest))
		text := rest[each:]
		end := bytes.IndexByte(text, 0)
		if end <= 0 || size == 0 || size > uint64(len(text)-end-1) {
			return nil, unix.EIO
		}
		name, value := text[:end], text[end+1:][:size]
		padded := (each + end + 1 + int(size) + 7) &^ 7
		if padded > len(rest) {
			return nil, unix.EIO
		}
		rest = rest[padded:]
		if string(name) != xattrSELinux {
			continue
		}
		// The kernel counts the NUL at the end.
		text = bytes.TrimSuffix(value, []byte{0})
		if label != nil || len(value) > maxLabel || len(text) == 0 || bytes.IndexByte(text, 0) >= 0 || text[0] == '\n' {
			return nil, unix.EIO
		}
		label = value
	}
	if len(rest) != 0 {
		return nil, unix.EIO
	}
	return label, 0
}
