package fusefs

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/test/testenv"
)

// withFew makes a file system with few descriptors, over a source with handles or without.
func withFew(t *testing.T, handles bool, budget int) (*FS, string) {
	t.Helper()
	if !handles {
		return withoutHandles(t, budget)
	}
	testenv.RequireRoot(t)
	source := openTmpfs(t)
	f, err := New(source, Options{Map: idmap.Identity(), Cache: Cache{Mode: CacheNone}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.close()
		source.Close()
	})
	f.fds.setBudget(budget)
	return f, throughFD(source)
}

func eachWithFew(t *testing.T, budget int, fn func(t *testing.T, f *FS, dir string)) {
	for _, handles := range []bool{true, false} {
		t.Run(fmt.Sprintf("handles=%v", handles), func(t *testing.T) {
			f, dir := withFew(t, handles, budget)
			fn(t, f, dir)
		})
	}
}

func rename(f *FS, from, to string, flags uint32) fuse.Status {
	in := fuse.RenameIn{InHeader: fuse.InHeader{NodeId: rootID}, Newdir: rootID, Flags: flags}
	return f.Rename(nil, &in, from, to)
}

func unlink(f *FS, name string) fuse.Status {
	return f.Unlink(nil, &fuse.InHeader{NodeId: rootID}, name)
}

func rmdir(f *FS, name string) fuse.Status {
	return f.Rmdir(nil, &fuse.InHeader{NodeId: rootID}, name)
}

// The budget holds after every call that could have taken a file's last name and has
// not, however many there are.
func TestCallsThatRemoveNothingKeepNothing(t *testing.T) {
	const budget, many = 16, 200
	mkdir := func(t *testing.T, path string) {
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write := func(t *testing.T, path string) {
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	full := func(t *testing.T, path string) { mkdir(t, path); write(t, path+"/x") }
	for name, c := range map[string]struct {
		make func(t *testing.T, path string)
		call func(f *FS, name string) fuse.Status
		want fuse.Status
	}{
		"rmdir of a full directory": {full, rmdir, fuse.Status(unix.ENOTEMPTY)},
		"rmdir of a file":           {write, rmdir, fuse.ENOTDIR},
		"unlink of a directory":     {mkdir, unlink, fuse.Status(unix.EISDIR)},
		"unlink of a file with another link": {
			func(t *testing.T, path string) {
				write(t, path)
				if err := os.Link(path, path+"2"); err != nil {
					t.Fatal(err)
				}
			},
			unlink, fuse.OK,
		},
		"exchange of files": {
			write,
			func(f *FS, name string) fuse.Status { return rename(f, "other", name, unix.RENAME_EXCHANGE) }, fuse.OK,
		},
		"exchange of directories": {
			full,
			func(f *FS, name string) fuse.Status { return rename(f, "other", name, unix.RENAME_EXCHANGE) }, fuse.OK,
		},
		"rename onto a full directory": {
			full,
			func(f *FS, name string) fuse.Status { return rename(f, "otherdir", name, 0) }, fuse.Status(unix.ENOTEMPTY),
		},
		"rename of a directory onto a file": {
			write,
			func(f *FS, name string) fuse.Status { return rename(f, "otherdir", name, 0) }, fuse.ENOTDIR,
		},
		"rename that may replace nothing": {
			write,
			func(f *FS, name string) fuse.Status { return rename(f, "other", name, unix.RENAME_NOREPLACE) }, fuse.Status(unix.EEXIST),
		},
		"rename of what is not there": {
			write,
			func(f *FS, name string) fuse.Status { return rename(f, "missing", name, 0) }, fuse.ENOENT,
		},
		"rename onto another link": {
			func(t *testing.T, path string) {
				write(t, path)
				if err := os.Link(path, path+"2"); err != nil {
					t.Fatal(err)
				}
			},
			func(f *FS, name string) fuse.Status { return rename(f, name+"2", name, 0) }, fuse.OK,
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachWithFew(t, budget, func(t *testing.T, f *FS, dir string) {
				write(t, dir+"/other")
				mkdir(t, dir+"/otherdir")
				var ids []uint64
				before := fds(t)
				for i := range many {
					name := fmt.Sprint(i)
					c.make(t, filepath.Join(dir, name))
					ids = append(ids, lookup(t, f, rootID, name))
				}
				for i := range many {
					if s := c.call(f, fmt.Sprint(i)); s != c.want {
						t.Fatalf("call %d: %v, want %v", i, s, c.want)
					}
				}
				if used := fds(t) - before; used > budget {
					t.Errorf("%d descriptors are used, the budget is %d", used, budget)
				}
				lost := 0
				for _, id := range ids {
					if _, s := getattr(f, id); s != fuse.OK {
						lost++
					}
				}
				// Without handles, a file is not found by the link that was never looked at.
				if mayLose := f.mounts.root == nil && c.want == fuse.OK; lost > 0 && !mayLose {
					t.Errorf("%d files of %d are lost", lost, many)
				}
			})
		})
	}
}

// What is deleted is still there for who has it, up to a bound: the oldest of the user
// who has most goes first.
func TestDeletedFilesKeepDescriptorsWithinTheBudget(t *testing.T) {
	const budget, many = 64, 200
	eachWithFew(t, budget, func(t *testing.T, f *FS, dir string) {
		before := fds(t)
		remove := func(name string, directory bool, uid uint32) uint64 {
			path := filepath.Join(dir, name)
			if directory {
				if err := os.Mkdir(path, 0o755); err != nil {
					t.Fatal(err)
				}
			} else if err := os.WriteFile(path, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			id := lookup(t, f, rootID, name)
			h := fuse.InHeader{NodeId: rootID}
			h.Uid = uid
			var s fuse.Status
			if directory {
				s = f.Rmdir(nil, &h, name)
			} else {
				s = f.Unlink(nil, &h, name)
			}
			if s != fuse.OK {
				t.Fatal(s)
			}
			return id
		}
		modest := []uint64{remove("modest file", false, 1000), remove("modest directory", true, 1000)}
		var greedy []uint64
		for i := range many {
			greedy = append(greedy, remove(fmt.Sprint(i), i%2 == 0, 1001))
		}
		if used := fds(t) - before; used > budget {
			t.Errorf("%d descriptors are used, the budget is %d", used, budget)
		}
		for _, id := range append(modest, greedy[many-budget/4:]...) {
			if _, s := getattr(f, id); s != fuse.OK {
				t.Errorf("a deleted file: %v", s)
			}
		}
		for _, id := range append(modest, greedy...) {
			f.Forget(id, 1)
		}
		if n := f.fds.pins.count; n != 0 {
			t.Errorf("%d pins are left", n)
		}
		if used := fds(t) - before; used > 1 {
			t.Errorf("%d descriptors are left", used)
		}
	})
}
