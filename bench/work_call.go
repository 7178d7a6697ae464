package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// The small files: as many and as large as those of a source tree.
const (
	smallFiles = 1000
	smallSize  = 3 << 10
	pageSize   = 4 << 10
)

// callWorkloads are about single operations.
func callWorkloads() []*workload {
	return []*workload{
		{
			name: "small", shared: makeSmallFiles,
			rows: []Row{
				{Name: "small-read", Title: "open, read and close small files again"},
				{Name: "open", Title: "open and close a file"},
				{Name: "getxattr", Title: "getxattr"},
			},
			run: func(_ context.Context, p *place, m *meter) error {
				paths := p.smallPaths()
				buf := make([]byte, 2*smallSize)
				for _, timed := range []bool{false, true} {
					m.begin()
					for _, path := range paths {
						if err := readSmall(path, buf); err != nil {
							return err
						}
					}
					if timed {
						m.end("small-read", len(paths))
					}
				}
				m.begin()
				for _, path := range paths {
					fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
					if err != nil {
						return &os.PathError{Op: "open", Path: path, Err: err}
					}
					unix.Close(fd)
				}
				m.end("open", len(paths))
				m.begin()
				for _, path := range paths {
					if n, err := unix.Lgetxattr(path, smallAttr, buf); err != nil || n != len(smallAttr) {
						return &os.PathError{Op: "getxattr", Path: path, Err: errors.Join(err, sized(n, len(smallAttr)))}
					}
				}
				m.end("getxattr", len(paths))
				return nil
			},
		},
		{
			name: "clients", shared: makeSmallFiles,
			rows: []Row{{Name: "clients", Title: "8 clients read small files at once"}},
			run: func(_ context.Context, p *place, m *meter) error {
				const clients = 8
				paths := p.smallPaths()
				errs := make([]error, clients)
				var group sync.WaitGroup
				m.begin()
				for client := range clients {
					group.Go(func() {
						buf := make([]byte, 2*smallSize)
						for i := range paths {
							path := paths[(i+client*len(paths)/clients)%len(paths)]
							if err := readSmall(path, buf); err != nil {
								errs[client] = err
								return
							}
						}
					})
				}
				group.Wait()
				m.end("clients", clients*len(paths))
				return errors.Join(errs...)
			},
		},
		{
			name: "create",
			rows: []Row{
				{Name: "create", Title: "create a file of 4 KiB"},
				{Name: "unlink", Title: "unlink it"},
			},
			run: func(_ context.Context, p *place, m *meter) error {
				dir := filepath.Join(p.own, "create")
				if err := os.Mkdir(dir, 0o755); err != nil {
					return err
				}
				paths := make([]string, p.env.size(500, 2000))
				for i := range paths {
					paths[i] = filepath.Join(dir, fmt.Sprintf("f%04d", i))
				}
				data := make([]byte, pageSize)
				m.begin()
				for _, path := range paths {
					if err := createFile(path, data); err != nil {
						return err
					}
				}
				m.end("create", len(paths))
				m.begin()
				for _, path := range paths {
					if err := unix.Unlink(path); err != nil {
						return &os.PathError{Op: "unlink", Path: path, Err: err}
					}
				}
				m.end("unlink", len(paths))
				return os.Remove(dir)
			},
		},
		{
			name: "write4k",
			rows: []Row{
				{Name: "write4k", Title: "write 4 KiB to an open file"},
				{Name: "append", Title: "append a byte to an open file"},
			},
			run: func(_ context.Context, p *place, m *meter) error {
				path := filepath.Join(p.own, "written")
				if err := createFile(path, make([]byte, smallFiles*pageSize)); err != nil {
					return err
				}
				if err := writeMany(path, 0, make([]byte, pageSize), smallFiles, m, "write4k"); err != nil {
					return err
				}
				if err := writeMany(path, unix.O_APPEND, []byte{1}, smallFiles, m, "append"); err != nil {
					return err
				}
				return unix.Unlink(path)
			},
		},
	}
}

// smallAttr is the name of an attribute of each small file, and its value.
const smallAttr = "user.bench"

func (p *place) smallPaths() []string {
	paths := make([]string, smallFiles)
	for i := range paths {
		paths[i] = filepath.Join(p.shared, smallFile(i))
	}
	return paths
}

func smallFile(i int) string { return fmt.Sprintf("small/d%02d/f%04d", i/50, i) }

func makeSmallFiles(_ context.Context, e *env) error {
	shared := filepath.Join(e.data, "shared")
	return e.make(filepath.Join(shared, "small"), func(string) error {
		for i := range smallFiles {
			path := filepath.Join(shared, smallFile(i))
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(path, make([]byte, smallSize), 0o644); err != nil {
				return err
			}
			// A file system without such attributes has them fail in the row.
			if err := unix.Lsetxattr(path, smallAttr, []byte(smallAttr), 0); err != nil && err != unix.EOPNOTSUPP {
				return &os.PathError{Op: "setxattr", Path: path, Err: err}
			}
		}
		return nil
	})
}

func readSmall(path string, buf []byte) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if n, err := unix.Read(fd, buf); err != nil || n != smallSize {
		return &os.PathError{Op: "read", Path: path, Err: errors.Join(err, sized(n, smallSize))}
	}
	return nil
}

// createFile creates a file as a program does: open, one write, close.
func createFile(path string, data []byte) error {
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return &os.PathError{Op: "create", Path: path, Err: err}
	}
	n, err := unix.Write(fd, data)
	err = errors.Join(err, sized(n, len(data)), unix.Close(fd))
	if err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

// writeMany opens a file and measures writes to it, one after the other. It is
// written to once before: that an application pays only the first time.
func writeMany(path string, flags int, data []byte, times int, m *meter, row string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	for i := range times + 1 {
		if i == 1 {
			m.begin()
		}
		if n, err := unix.Write(fd, data); err != nil || n != len(data) {
			return &os.PathError{Op: "write", Path: path, Err: errors.Join(err, sized(n, len(data)))}
		}
	}
	m.end(row, times)
	return nil
}

// sized is an error if a call has moved another number of bytes than it should.
func sized(got, want int) error {
	if got != want {
		return fmt.Errorf("%d bytes, want %d", got, want)
	}
	return nil
}
