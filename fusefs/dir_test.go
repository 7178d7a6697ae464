package fusefs

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/test/testenv"
)

func TestParseDirent(t *testing.T) {
	dir := t.TempDir()
	want := map[string]uint32{".": unix.S_IFDIR, "..": unix.S_IFDIR, "dir": unix.S_IFDIR}
	if err := os.Mkdir(filepath.Join(dir, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 255; n += 9 { // all lengths of the padding, and the longest
		name := strings.Repeat("n", n)
		want[name] = unix.S_IFREG
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	buf := make([]byte, direntBuf)
	n, err := unix.Getdents(int(file.Fd()), buf)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]uint32)
	for rest := buf[:n]; len(rest) > 0; {
		e, size := parseDirent(rest)
		if size == 0 {
			t.Fatalf("no entry in %x", rest)
		}
		if e.Off == 0 || e.Ino == 0 {
			t.Errorf("entry %+v", e)
		}
		got[strings.Clone(e.Name)] = e.Mode
		rest = rest[size:]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func FuzzParseDirent(f *testing.F) {
	whole := make([]byte, 24)
	binary.NativeEndian.PutUint16(whole[16:], 24)
	copy(whole[19:], "name")
	f.Add(whole)
	f.Add(whole[:18])
	f.Fuzz(func(t *testing.T, buf []byte) {
		e, size := parseDirent(slices.Clip(buf))
		if size < 0 || size > len(buf) {
			t.Errorf("%d bytes of %d", size, len(buf))
		}
		if size > 0 && !strings.HasPrefix(string(buf[19:size]), e.Name) || strings.Contains(e.Name, "\x00") {
			t.Errorf("name %q of %x", e.Name, buf)
		}
	})
}

// A directory that is removed while somebody has it open can still be asked for.
func TestRemovedDirectoryIsThere(t *testing.T) {
	dir := testenv.Source(t, "tmpfs")
	source, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	f, err := New(source, Options{Map: idmap.Identity()})
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	for _, held := range []bool{true, false} {
		if err := os.Mkdir(filepath.Join(dir, "dir"), 0o755); err != nil {
			t.Fatal(err)
		}
		id := lookup(t, f, rootID, "dir")
		if !held {
			f.fds.leave(f.nodes.get(id))
		}
		if s := f.Rmdir(nil, &fuse.InHeader{NodeId: rootID}, "dir"); !s.Ok() {
			t.Fatal(s)
		}
		if a, s := getattr(f, id); !s.Ok() || a.Nlink != 0 {
			t.Errorf("descriptor held %v: %d links, %v, want none", held, a.Nlink, s)
		}
		f.Forget(id, 1)
	}
}

// What is removed from a directory of ramfs while it is listed moves the places of
// what stays. The kernel drops a part of each answer, and asks again from there.
func TestListingOfMovingPlaces(t *testing.T) {
	dir := testenv.Source(t, "ramfs")
	const files = 2000 // more than are read at once
	for i := range files {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%04d", i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	source, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	f, err := New(source, Options{Map: idmap.Identity()})
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	var opened fuse.OpenOut
	if s := f.OpenDir(nil, &fuse.OpenIn{InHeader: fuse.InHeader{NodeId: rootID}}, &opened); !s.Ok() {
		t.Fatal(s)
	}
	seen := map[string]int{}
	for offset, removed := uint64(0), 0; ; {
		buf := make([]byte, 4096)
		in := fuse.ReadIn{InHeader: fuse.InHeader{NodeId: rootID}, Fh: opened.Fh, Offset: offset}
		if s := f.ReadDir(nil, &in, fuse.NewDirEntryList(buf, offset)); !s.Ok() {
			t.Fatal(s)
		}
		taken := 0
		for ; taken < 60 && len(buf) > 24; taken++ { // struct fuse_dirent
			size := binary.NativeEndian.Uint32(buf[16:])
			if size == 0 {
				break
			}
			seen[string(buf[24:24+size])]++
			offset = binary.NativeEndian.Uint64(buf[8:])
			buf = buf[24+(size+7)&^7:]
		}
		if taken == 0 {
			break
		}
		for range 20 {
			_ = os.Remove(filepath.Join(dir, fmt.Sprintf("%04d", removed)))
			removed += 2
		}
	}
	for i := 1; i < files; i += 2 {
		if n := seen[fmt.Sprintf("%04d", i)]; n != 1 {
			t.Fatalf("file %d of those that stay was seen %d times", i, n)
		}
	}
	f.ReleaseDir(&fuse.ReleaseIn{Fh: opened.Fh})
}

// Whoever lists a directory is not told again what the kernel has just been told.
func TestListingOfKnownNames(t *testing.T) {
	f, dir, _ := servedTmpfs(t)
	const files = 20
	for i := range files {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%02d", i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root := f.nodes.get(rootID)
	// told lists the root, and returns how many of its files have nodes in the answer.
	told := func() (n int) {
		t.Helper()
		buf := make([]byte, 16384)
		in := fuse.ReadIn{InHeader: fuse.InHeader{NodeId: rootID}}
		if s := f.ReadDirPlus(nil, &in, fuse.NewDirEntryList(buf, 0)); !s.Ok() {
			t.Fatal(s)
		}
		const entrySize, nameAt = 128, 24 // struct fuse_entry_out, struct fuse_dirent
		seen := 0
		for len(buf) > entrySize+nameAt {
			id := binary.NativeEndian.Uint64(buf)
			size := binary.NativeEndian.Uint32(buf[entrySize+16:])
			if size == 0 {
				break
			}
			if strings.HasPrefix(string(buf[entrySize+nameAt:][:size]), "f") {
				seen++
				if id != 0 {
					n++
					f.Forget(id, 1)
				}
			}
			buf = buf[entrySize+nameAt+(size+7)&^7:]
		}
		if seen != files {
			t.Fatalf("%d files of %d are listed", seen, files)
		}
		return n
	}
	lookups := func(n int) {
		for i := range n {
			f.Forget(lookup(t, f, rootID, fmt.Sprintf("f%02d", i)), 1)
		}
	}
	longAgo := func() {
		f.fds.mu.Lock()
		defer f.fds.mu.Unlock()
		root.held.told.since = root.held.told.since.Add(-2 * toldFor)
	}
	told() // begins to count
	for _, c := range []struct {
		what string
		do   func()
		want int
	}{
		{"nothing", func() {}, files},
		{"few", func() { lookups(5) }, files},
		{"most", func() { lookups(15) }, 0},
		{"the listing alone", func() {}, files},
		{"absent ones", func() {
			for range files {
				var out fuse.EntryOut
				f.Lookup(nil, &fuse.InHeader{NodeId: rootID}, "absent", &out)
			}
		}, files},
		{"names that are gone", func() {
			for i := range files {
				var out fuse.CreateOut
				in := fuse.CreateIn{InHeader: fuse.InHeader{NodeId: rootID}, Flags: unix.O_WRONLY, Mode: 0o644}
				name := fmt.Sprintf("gone%02d", i)
				if s := f.Create(nil, &in, name, &out); !s.Ok() {
					t.Fatal(s)
				}
				f.Release(nil, &fuse.ReleaseIn{InHeader: fuse.InHeader{NodeId: out.NodeId}, Fh: out.Fh, Flags: unix.O_WRONLY})
				if s := f.Unlink(nil, &in.InHeader, name); !s.Ok() {
					t.Fatal(s)
				}
				f.Forget(out.NodeId, 1)
			}
		}, files},
		{"most, long ago", func() {
			lookups(15)
			longAgo()
		}, files},
		{"most, some long ago", func() {
			lookups(1)
			longAgo()
			lookups(15)
		}, 0},
	} {
		c.do()
		if n := told(); n != c.want {
			t.Errorf("after look-ups of %s: %d files have nodes, want %d", c.what, n, c.want)
		}
	}
}
