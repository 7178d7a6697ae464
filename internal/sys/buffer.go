package sys

import "golang.org/x/sys/unix"

// Buffer returns zeroed memory outside Go's heap, on a page boundary. It takes
// up only the pages that have been used; huge pages, which would be used whole,
// are kept away from it.
func Buffer(size int) ([]byte, error) {
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return nil, &Error{Op: "mmap", Err: err}
	}
	_ = unix.Madvise(mem, unix.MADV_NOHUGEPAGE) // EINVAL where the kernel has none
	return mem, nil
}

// FreeBuffer gives back what Buffer returned.
func FreeBuffer(mem []byte) { _ = unix.Munmap(mem) }
