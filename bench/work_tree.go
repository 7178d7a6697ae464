package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// treeWorkloads look at many files.
func treeWorkloads() []*workload {
	return []*workload{
		{
			name: "walk",
			rows: []Row{
				{Name: "walk-cold", Title: "walk a tree, cold"},
				{Name: "walk-warm", Title: "walk a tree again"},
			},
			shared: walkTree,
			run: func(ctx context.Context, p *place, m *meter) error {
				tree := filepath.Join(p.shared, "tree")
				if err := dropCaches(ctx); err != nil {
					return err
				}
				for _, row := range []string{"walk-cold", "", "walk-warm"} {
					m.begin()
					n, err := walk(ctx, tree)
					if err != nil {
						return err
					}
					if want := p.env.treeFiles() + p.env.treeDirs(); n != want {
						return fmt.Errorf("walk %s: %d entries, want %d", tree, n, want)
					}
					if row != "" {
						m.end(row, n)
					}
				}
				return nil
			},
		},
		{
			name:   "stat",
			rows:   []Row{{Name: "stat-cold", Title: "stat a file for the first time"}, {Name: "stat", Title: "stat it again"}},
			shared: walkTree,
			run: func(ctx context.Context, p *place, m *meter) error {
				// Every tenth file: neighbours share blocks of the disk.
				var paths []string
				for i := 0; i < p.env.treeFiles(); i += 10 {
					paths = append(paths, filepath.Join(p.shared, treeFile(i)))
				}
				if err := dropCaches(ctx); err != nil {
					return err
				}
				for _, row := range []struct {
					name   string
					passes int // what takes a moment only is done again and again
				}{{"stat-cold", 1}, {"stat", 10}} {
					m.begin()
					for range row.passes {
						for _, path := range paths {
							var st unix.Stat_t
							if err := unix.Lstat(path, &st); err != nil {
								return &os.PathError{Op: "stat", Path: path, Err: err}
							}
						}
					}
					m.end(row.name, row.passes*len(paths))
				}
				return nil
			},
		},
	}
}

const treeDirFiles = 100

func (e *env) treeFiles() int { return e.size(5_000, 50_000) }
func (e *env) treeDirs() int  { return e.treeFiles() / treeDirFiles }

// treeFile is the path of file i of the tree, from the directory shared.
func treeFile(i int) string {
	return fmt.Sprintf("tree/d%04d/f%06d", i/treeDirFiles, i)
}

func walkTree(ctx context.Context, e *env) error {
	return e.make(filepath.Join(e.data, "shared", "tree"), func(tree string) error {
		return makeEmptyFiles(ctx, tree, e.treeFiles(), treeDirFiles)
	})
}

// makeEmptyFiles makes directories of empty files, all of them inodes of their
// own. Empty, so that no cached data pins an inode when caches are dropped.
func makeEmptyFiles(ctx context.Context, tree string, files, perDir int) error {
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	const workers = 4
	errs := make([]error, workers)
	var group sync.WaitGroup
	for worker := range workers {
		group.Go(func() {
			for d := worker; d*perDir < files && errs[worker] == nil && ctx.Err() == nil; d += workers {
				errs[worker] = makeEmptyDir(filepath.Join(tree, fmt.Sprintf("d%04d", d)), d*perDir, min(files, (d+1)*perDir))
			}
		})
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

func makeEmptyDir(dir string, from, to int) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	for i := from; i < to; i++ {
		name := fmt.Sprintf("f%06d", i)
		if err := unix.Mknodat(fd, name, unix.S_IFREG|0o644, 0); err != nil {
			return &os.PathError{Op: "mknod", Path: filepath.Join(dir, name), Err: err}
		}
	}
	return nil
}

// walk lists everything below a directory and looks at the attributes of each,
// as find -printf and many others do, and returns how many there were.
func walk(ctx context.Context, dir string) (int, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return walkAt(ctx, fd, make([]byte, 64<<10))
}

// walkAt closes fd.
func walkAt(ctx context.Context, fd int, buf []byte) (int, error) {
	defer unix.Close(fd)
	seen := 0
	var dirs []string
	for ctx.Err() == nil {
		n, err := unix.ReadDirent(fd, buf)
		if err != nil {
			return seen, os.NewSyscallError("getdents64", err)
		}
		if n == 0 {
			break
		}
		_, _, names := unix.ParseDirent(buf[:n], -1, nil)
		for _, name := range names {
			var st unix.Stat_t
			if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return seen, &os.PathError{Op: "stat", Path: name, Err: err}
			}
			seen++
			if st.Mode&unix.S_IFMT == unix.S_IFDIR {
				dirs = append(dirs, name)
			}
		}
	}
	for _, name := range dirs {
		sub, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return seen, &os.PathError{Op: "open", Path: name, Err: err}
		}
		n, err := walkAt(ctx, sub, buf)
		seen += n
		if err != nil {
			return seen, err
		}
	}
	return seen, ctx.Err()
}

// dropCaches has the kernel forget names and inodes, as after a long pause; the
// data of files stays. FUSE servers hear of it by FORGET requests, which must
// not fall into what is measured next.
func dropCaches(ctx context.Context) error {
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(200 * time.Millisecond):
		return nil
	}
}
