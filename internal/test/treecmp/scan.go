package treecmp

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// inode tells hard links of one file from others, within one scan.
type inode struct{ dev, ino uint64 }

// scanner is the state of one scan.
type scanner struct {
	tree Tree
	seen map[inode]string // the first path of every file with several names
	buf  []byte           // content and xattr values pass through here
}

// Scan reads the tree below the directory root; a symbolic link at root itself
// is followed. Any file that cannot be read in full is an error with its path:
// a tree with holes would compare as equal where it is not.
func Scan(root string) (Tree, error) {
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", root, err)
	}
	defer unix.Close(fd)
	s := &scanner{tree: Tree{}, seen: map[inode]string{}, buf: make([]byte, 256<<10)}
	if err := s.entry(fd, "."); err != nil {
		return nil, fmt.Errorf("scan %s: %w", root, err)
	}
	return s.tree, nil
}

// entry records the file that fd, opened with O_PATH, refers to, and all that
// is below it.
func (s *scanner) entry(fd int, rel string) error {
	var stx unix.Statx_t
	const mask = unix.STATX_BASIC_STATS
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, mask, &stx); err != nil {
		return fmt.Errorf("statx %s: %w", rel, err)
	}
	e := Entry{
		Mode:      uint32(stx.Mode),
		UID:       stx.Uid,
		GID:       stx.Gid,
		MtimeSec:  stx.Mtime.Sec,
		MtimeNsec: int64(stx.Mtime.Nsec),
		Mount:     rel != "." && stx.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0,
	}
	if !e.IsDir() {
		if stx.Nlink > 1 {
			id := inode{unix.Mkdev(stx.Dev_major, stx.Dev_minor), stx.Ino}
			if first, ok := s.seen[id]; ok {
				e.HardLinkOf = first
			} else {
				s.seen[id] = rel
			}
		}
	}

	var err error
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFCHR, unix.S_IFBLK:
		e.Rdev = unix.Mkdev(stx.Rdev_major, stx.Rdev_minor)
	case unix.S_IFLNK:
		if e.Link, err = s.readlink(fd); err != nil {
			return fmt.Errorf("readlink %s: %w", rel, err)
		}
	case unix.S_IFREG:
		e.Size = int64(stx.Size)
		if e.Hash, err = s.hash(fd); err != nil {
			return fmt.Errorf("read %s: %w", rel, err)
		}
	}
	if e.Xattrs, err = s.xattrs(fd); err != nil {
		return fmt.Errorf("%s: %w", rel, err)
	}
	s.tree[rel] = e
	if e.IsDir() && !e.Mount {
		return s.children(fd, rel)
	}
	return nil
}

// children records what is in the directory fd, in the order of names, which
// makes the first name of a hard link the same one in equal trees.
func (s *scanner) children(fd int, rel string) error {
	dir, err := open(fd, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("open %s: %w", rel, err)
	}
	names, err := dir.Readdirnames(-1)
	dir.Close()
	if err != nil {
		return fmt.Errorf("read directory %s: %w", rel, err)
	}
	slices.Sort(names)
	for _, name := range names {
		p := path.Join(rel, name)
		child, err := unix.Openat(fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", p, err)
		}
		err = s.entry(child, p)
		unix.Close(child)
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *scanner) readlink(fd int) (string, error) {
	n, err := unix.Readlinkat(fd, "", s.buf)
	if err != nil {
		return "", err
	}
	return string(s.buf[:n]), nil
}

func (s *scanner) hash(fd int) ([]byte, error) {
	f, err := open(fd, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	// The struct hides os.File's WriterTo, which would allocate a buffer a file.
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{f}, s.buf); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}

// xattrs reads all extended attributes of fd. The f*xattr calls refuse O_PATH
// descriptors; the entry in /proc works, and for a symbolic link it is the link.
func (s *scanner) xattrs(fd int) (map[string][]byte, error) {
	file := procPath(fd)
	n, err := unix.Listxattr(file, s.buf)
	if errors.Is(err, unix.EOPNOTSUPP) || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listxattr: %w", err)
	}
	xattrs := map[string][]byte{}
	for _, name := range bytes.Split(bytes.Clone(s.buf[:n]), []byte{0}) {
		if len(name) == 0 {
			continue
		}
		n, err := unix.Getxattr(file, string(name), s.buf)
		if err != nil {
			return nil, fmt.Errorf("getxattr %s: %w", name, err)
		}
		xattrs[string(name)] = append([]byte{}, s.buf[:n]...)
	}
	return xattrs, nil
}

// open turns an O_PATH descriptor into one that can be read.
func open(fd, flags int) (*os.File, error) {
	opened, err := unix.Open(procPath(fd), flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(opened), procPath(fd)), nil
}

func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
