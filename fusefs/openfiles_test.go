package fusefs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/test/testenv"
)

// Whatever one user has, another gets some, and root gets what is left.
func TestShares(t *testing.T) {
	files := newOpenFiles(64, nil)
	took := func(uid uint32) (n int) {
		for files.charge(uid) {
			n++
		}
		return n
	}
	got := []int{took(1000), took(1001), took(1002), took(0), took(1003)}
	if want := []int{32, 16, 8, 8, 0}; !slices.Equal(got, want) {
		t.Errorf("users in turn got %v descriptors of 64, want %v", got, want)
	}
	for range got[0] {
		files.uncharge(1000)
	}
	if n := took(1003); n != 16 {
		t.Errorf("the next one got %d of 32, want 16", n)
	}
}

// without is a file system without passthrough and what the kernel does, with few
// descriptors for open files.
func without(t *testing.T, budget int) (*FS, string) {
	t.Helper()
	testenv.RequireRoot(t)
	source := openTmpfs(t)
	f, err := New(source, Options{Map: idmap.Identity(), NoPassthrough: true, Cache: Cache{Mode: CacheNone}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.close()
		source.Close()
	})
	f.files = newOpenFiles(budget, backingAnchors{f})
	return f, throughFD(source)
}

// One user who opens all files that they can leaves some to others, and what is refused
// is not made.
func TestOneUserLeavesDescriptorsToOthers(t *testing.T) {
	const budget = 64
	f, dir := without(t, budget)
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "dir"), 0o777); err != nil {
		t.Fatal(err)
	}
	dirID := lookup(t, f, rootID, "dir")
	open := func(uid uint32) (uint64, fuse.Status) {
		in, out := fuse.OpenIn{Flags: unix.O_RDWR}, fuse.OpenOut{}
		in.NodeId, in.Uid = lookup(t, f, rootID, "file"), uid
		s := f.Open(nil, &in, &out)
		return out.Fh, s
	}
	create := func(uid uint32, name string) fuse.Status {
		in, out := fuse.CreateIn{Flags: unix.O_RDWR | unix.O_CREAT, Mode: 0o644}, fuse.CreateOut{}
		in.NodeId, in.Uid, in.Gid = rootID, uid, uid
		return f.Create(nil, &in, name, &out)
	}
	before := fds(t)
	var handles []uint64
	for {
		fh, s := open(1000)
		if s != fuse.OK {
			if s != fuse.Status(unix.ENFILE) {
				t.Errorf("too many files: %v, want ENFILE", s)
			}
			break
		}
		handles = append(handles, fh)
	}
	if n := len(handles); n != budget/2 {
		t.Errorf("one user has opened %d files, want %d", n, budget/2)
	}
	if used := fds(t) - before; used > budget/2+1 {
		t.Errorf("%d descriptors are used, want %d", used, budget/2)
	}
	if s := create(1000, "new"); s != fuse.Status(unix.ENFILE) {
		t.Errorf("create: %v, want ENFILE", s)
	}
	if _, err := os.Lstat(filepath.Join(dir, "new")); !os.IsNotExist(err) {
		t.Errorf("create was refused and has made a file: %v", err)
	}
	lock := fuse.LkIn{Fh: handles[0], Owner: 1, Lk: fuse.FileLock{End: offsetMax, Typ: unix.F_WRLCK}}
	lock.NodeId, lock.Uid = lookup(t, f, rootID, "file"), 1000
	if s := f.SetLk(nil, &lock); s != fuse.Status(unix.ENOLCK) {
		t.Errorf("a lock of who has too many files: %v, want ENOLCK", s)
	}
	if _, s := getattr(f, dirID); s != fuse.OK {
		t.Errorf("stat by somebody: %v", s)
	}
	for i := range budget / 4 {
		if _, s := open(1001); s != fuse.OK {
			t.Errorf("file %d of another user: %v", i, s)
		}
	}
	if s := create(0, "root's"); s != fuse.OK {
		t.Errorf("create by root: %v", s)
	}
	in := fuse.ReleaseIn{Fh: handles[0]}
	in.NodeId = lookup(t, f, rootID, "file")
	for _, in.Fh = range handles {
		f.Release(nil, &in)
	}
	if _, s := open(1000); s != fuse.OK {
		t.Errorf("after all are closed: %v", s)
	}
}

// Files that the kernel keeps open are not limited by this server's descriptors, whatever
// is done with them.
func TestManyOpenFilesNeedFewDescriptors(t *testing.T) {
	f, dir, mnt := servedTmpfs(t)
	const budget, many = 8, 100
	f.files.mu.Lock()
	f.files.budget = budget
	f.files.mu.Unlock()
	for name, mode := range map[string]os.FileMode{"written by the kernel": 0o644, "with set-id bits": 0o755 | os.ModeSetgid} {
		t.Run(name, func(t *testing.T) {
			var open []*os.File
			for i := range many {
				path := filepath.Join(mnt, fmt.Sprint(i))
				file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
				if err != nil {
					t.Fatal(err)
				}
				if mode&os.ModeSetgid != 0 {
					if err := file.Close(); err != nil {
						t.Fatal(err)
					}
					testenv.WaitFor(t, "the file closed", func() bool { return f.files.inUse() < budget })
					if err := os.Chmod(filepath.Join(dir, fmt.Sprint(i)), mode); err != nil {
						t.Fatal(err)
					}
					if file, err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
						t.Fatal(err)
					}
				}
				defer file.Close()
				open = append(open, file)
			}
			check := func(when string) {
				t.Helper()
				for i, file := range open {
					text := []byte(fmt.Sprint(when, i))
					if _, err := file.WriteAt(text, 0); err != nil {
						t.Errorf("%s: write: %v", when, err)
					}
					got := make([]byte, len(text))
					if _, err := file.ReadAt(got, 0); err != nil || !bytes.Equal(got, text) {
						t.Errorf("%s: read %q, want %q: %v", when, got, text, err)
					}
					fd := int(file.Fd())
					if err := unix.Fallocate(fd, 0, 0, 8192); err != nil {
						t.Errorf("%s: fallocate: %v", when, err)
					}
					if err := unix.Fsync(fd); err != nil {
						t.Errorf("%s: fsync: %v", when, err)
					}
					if err := unix.Ftruncate(fd, 4096); err != nil {
						t.Errorf("%s: ftruncate: %v", when, err)
					}
					var st unix.Stat_t
					if err := unix.Fstat(fd, &st); err != nil || st.Size != 4096 {
						t.Errorf("%s: fstat: size %d: %v", when, st.Size, err)
					}
				}
				// One more may be in use by a request that has been answered.
				if n := f.files.inUse(); n > budget+1 {
					t.Errorf("%s: %d descriptors are used, the budget is %d", when, n, budget)
				}
			}
			check("with names")
			for i := range many {
				side := mnt
				if i%2 == 0 {
					side = dir
				}
				if err := os.Remove(filepath.Join(side, fmt.Sprint(i))); err != nil {
					t.Error(err)
				}
			}
			check("without names")
			for i, file := range open {
				if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil && i < budget/2 {
					t.Errorf("flock %d: %v", i, err)
				}
				file.Close()
			}
			testenv.WaitFor(t, "all closed", func() bool { return f.files.inUse() == 0 })
			f.files.mu.Lock()
			defer f.files.mu.Unlock()
			if f.files.closing != 0 || f.files.charged != 0 {
				t.Errorf("%d descriptors that can be closed and %d that are charged are left", f.files.closing, f.files.charged)
			}
		})
	}
}

// A directory that is being read has a descriptor only while there are not too many.
func TestManyDirectoryStreams(t *testing.T) {
	f, dir := without(t, 64)
	const budget, many, entries = 4, 50, 300
	f.streams.budget = budget
	for i := range entries {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	before := fds(t)
	type reading struct {
		fh     uint64
		offset uint64
		names  map[string]bool
		end    bool
	}
	var all []*reading
	for range many {
		in, out := fuse.OpenIn{}, fuse.OpenOut{}
		in.NodeId = rootID
		if s := f.OpenDir(nil, &in, &out); s != fuse.OK {
			t.Fatal(s)
		}
		all = append(all, &reading{fh: out.Fh, names: map[string]bool{}})
	}
	for unfinished := many; unfinished > 0; {
		for _, r := range all {
			if r.end {
				continue
			}
			buf := make([]byte, 1024)
			in := fuse.ReadIn{Fh: r.fh, Offset: r.offset, Size: uint32(len(buf))}
			in.NodeId = rootID
			if s := f.ReadDir(nil, &in, fuse.NewDirEntryList(buf, r.offset)); s != fuse.OK {
				t.Fatal(s)
			}
			r.end = true
			for len(buf) > 24 { // struct fuse_dirent
				size := binary.NativeEndian.Uint32(buf[16:])
				if size == 0 {
					break
				}
				name := string(buf[24 : 24+size])
				if r.names[name] {
					t.Fatalf("%q is there twice", name)
				}
				r.names[name], r.offset, r.end = true, binary.NativeEndian.Uint64(buf[8:]), false
				buf = buf[24+(size+7)&^7:]
			}
			if r.end {
				unfinished--
			}
		}
		if used := fds(t) - before; used > budget {
			t.Fatalf("%d descriptors are used, the budget is %d", used, budget)
		}
	}
	for _, r := range all {
		if len(r.names) != entries+2 {
			t.Errorf("%d names, want %d", len(r.names), entries+2)
		}
		in := fuse.ReleaseIn{Fh: r.fh}
		in.NodeId = rootID
		f.ReleaseDir(&in)
	}
	if used := fds(t) - before; used > 0 {
		t.Errorf("%d descriptors are left", used)
	}
}

// The answer to a READ comes from its file, also if the file is unlocked and its
// descriptor is closed before the answer is read.
func TestReadOfUnlockedFile(t *testing.T) {
	f, dir, mnt := servedTmpfs(t)
	for name, mode := range map[string]os.FileMode{"mine": 0o755 | os.ModeSetgid, "secret": 0o600} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.Open(filepath.Join(mnt, "mine"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	f.files.mu.Lock()
	o := f.files.files[slices.IndexFunc(f.files.files, func(o *openFile) bool { return o != nil && o.fd >= 0 && o.node != nil })]
	f.files.mu.Unlock()
	lock := fuse.LkIn{Fh: o.handle, LkFlags: fuse.LK_FLOCK, Lk: fuse.FileLock{End: offsetMax, Typ: unix.F_RDLCK}}
	lock.NodeId = o.node.id
	if s := f.SetLk(nil, &lock); s != fuse.OK {
		t.Fatal(s)
	}
	buf := make([]byte, 100)
	in := fuse.ReadIn{Fh: o.handle, Size: uint32(len(buf))}
	in.NodeId = o.node.id
	answer, s := f.Read(nil, &in, buf)
	if s != fuse.OK {
		t.Fatal(s)
	}
	defer answer.Done()
	lock.Lk.Typ = unix.F_UNLCK
	if s := f.SetLk(nil, &lock); s != fuse.OK {
		t.Fatal(s)
	}
	f.files.mu.Lock()
	fd := o.fd
	f.files.mu.Unlock()
	if !f.reclaim() || f.files.inUse() != 0 {
		t.Fatal("the descriptor is not closed")
	}
	secret, err := os.Open(filepath.Join(dir, "secret"))
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Close()
	if fd != int(secret.Fd()) { // it often gets the number by itself
		if err := unix.Dup3(int(secret.Fd()), fd, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
	}
	if got, s := answer.Bytes(make([]byte, 100)); s != fuse.OK || string(got) != "mine" {
		t.Errorf("read %q of the file: %v", got, s)
	}
}
