package fusefs

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/sys"
	"github.com/idmount/idmount/internal/test/testenv"
	"github.com/idmount/idmount/internal/test/treecmp"
)

// TestCrowd lets many workers change a few files at once through a server in
// this process: with -race, which is what it is for, and without. Afterwards
// nothing may be lost, and nothing kept.
func TestCrowd(t *testing.T) {
	testenv.RequireRoot(t)
	for _, mode := range []CacheMode{CacheNone, CacheCoherent, CacheExclusive} {
		for _, passthrough := range []bool{true, false} {
			if mode == CacheExclusive && passthrough {
				continue // it has none
			}
			for _, transport := range []Transport{TransportDevice, TransportRing} {
				t.Run(fmt.Sprintf("%v/passthrough=%v/%v", cacheNames[mode], passthrough, transport), func(t *testing.T) {
					if transport == TransportRing {
						testenv.IOUring(t)
					}
					crowd(t, Options{Map: idmap.Identity(), Cache: Cache{Mode: mode}, NoPassthrough: !passthrough, Transport: transport})
				})
			}
		}
	}
}

const (
	workers     = 8
	workerSteps = 400
)

func crowd(t *testing.T, o Options) {
	source := openTmpfs(t)
	defer source.Close()
	before := kept()
	f, err := New(source, o)
	if err != nil {
		t.Fatal(err)
	}
	// Neither mount is seen by other threads of this process, but by descriptors.
	tree := serve(t, f)
	src, mnt := throughFD(source)+"/", throughFD(tree)+"/"
	mounted := true
	unmount := func() {
		if mounted {
			mounted = false
			tree.Close()
			f.Wait()
		}
	}
	defer unmount()

	noPoll(t, mnt+"a")

	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			for range workerSteps {
				disturb(t, r, mnt)
			}
		})
	}
	wg.Wait()

	seen, err := treecmp.Scan(mnt)
	if err != nil {
		t.Fatal(err)
	}
	there, err := treecmp.Scan(src)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range treecmp.Diff(there, seen, treecmp.Options{}) {
		t.Error("source, mount: ", d)
	}
	countLinks(t, mnt)

	// What is removed is forgotten, and with it all that the server keeps of it.
	for _, name := range readNames(t, mnt) {
		if err := os.RemoveAll(filepath.Join(mnt, name)); err != nil {
			t.Error(err)
		}
	}
	testenv.WaitFor(t, "the server knows files of an empty directory", func() bool { return f.nodes.len() <= 1 })
	unmount()
	if !testenv.Becomes(func() bool { return len(kept()) <= len(before) }) {
		t.Errorf("descriptors before the mount: %q, and after it: %q", before, kept())
	}
}

// kept are the open files of this process, but for those of Go's own poller.
// Descriptors are reached by way of /proc, which stays open too.
func kept() (out []string) {
	links, _ := filepath.Glob("/proc/self/fd/*")
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && !strings.HasPrefix(to, "anon_inode:[event") && !strings.HasPrefix(to, "/proc/") {
			out = append(out, to)
		}
	}
	return out
}

// openTmpfs opens a new tmpfs that other threads of this process do not see,
// with the umask of a server.
func openTmpfs(t *testing.T) *os.File {
	t.Helper()
	unix.Umask(0)
	testenv.PrivateMounts(t)
	dir := testenv.Dir(t)
	testenv.Mount(t, "tmpfs", dir, "mode=0755")
	source, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return source
}

// serve makes a mount of f that is nowhere, and ends when it is closed.
func serve(t testing.TB, f *FS) *os.File {
	t.Helper()
	dev, tree, err := sys.FuseMount(sys.FuseMountOptions{Source: "crowd", Subtype: "idmount", AllowOther: true, DefaultPermissions: true})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	if err := f.Start(dev); err != nil {
		tree.Close()
		t.Fatal(err)
	}
	return tree
}

// noPoll has the kernel learn that this server has no POLL. Else it would ask
// when package os adds the first file to Go's poller, and all of Go, the server
// too, would wait meanwhile.
func noPoll(t *testing.T, path string) {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0); err != nil {
		t.Fatal(err)
	}
}

func throughFD(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// disturb makes one call on names that all workers share. Most errors are the
// others' doing; those that no order of calls explains fail the test.
func disturb(t *testing.T, r *rand.Rand, root string) {
	name := func() string {
		dirs := []string{"", "d/", "e/", "d/e/"}
		return filepath.Join(root, dirs[r.IntN(len(dirs))]+string(rune('a'+r.IntN(6))))
	}
	var err error
	what, a, b := r.IntN(14), name(), name()
	switch what {
	case 0, 1, 2:
		var file *os.File
		flags := []int{os.O_RDWR, os.O_RDWR | os.O_CREATE, os.O_WRONLY | os.O_CREATE | os.O_EXCL, os.O_RDWR | os.O_CREATE | os.O_TRUNC}
		if file, err = os.OpenFile(a, flags[r.IntN(4)]|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0o644); err == nil {
			_, err = file.WriteAt([]byte(strings.Repeat("x", 1+r.IntN(9000))), int64(r.IntN(5000)))
			buf := make([]byte, 100)
			_, _ = file.ReadAt(buf, 0)
			if cerr := file.Close(); err == nil {
				err = cerr
			}
		}
	case 3:
		err = os.Mkdir(filepath.Join(root, []string{"d", "e", "d/e"}[r.IntN(3)]), 0o755)
	case 4:
		err = unix.Unlink(a)
	case 5:
		err = unix.Rmdir(filepath.Join(root, []string{"d", "e", "d/e"}[r.IntN(3)]))
	case 6, 7:
		err = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, []uint{0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE}[r.IntN(3)])
	case 8:
		err = unix.Link(a, b)
	case 9:
		err = os.Symlink("a", a)
	case 10:
		_, err = os.ReadDir(filepath.Dir(a))
	case 11:
		_, err = os.Lstat(a)
	case 12:
		err = unix.Lsetxattr(a, "trusted.x", []byte("value"), 0)
	case 13:
		err = unix.Lchown(a, r.IntN(1000), r.IntN(1000))
	}
	if what == 8 && errors.Is(err, unix.EPERM) {
		return // of a directory
	}
	for _, fine := range []error{nil, unix.ENOENT, unix.EEXIST, unix.ENOTDIR, unix.EISDIR, unix.ENOTEMPTY, unix.ELOOP, unix.EINVAL, unix.EBUSY} {
		if err == fine || fine != nil && errors.Is(err, fine) {
			return
		}
	}
	t.Errorf("call %d: %v", what, err)
}

// countLinks compares the link count of each file with its names.
func countLinks(t *testing.T, root string) {
	t.Helper()
	names := map[uint64][]string{}
	links := map[uint64]uint64{}
	_ = filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil && !e.IsDir() {
			if err = unix.Lstat(path, &st); err == nil {
				names[st.Ino] = append(names[st.Ino], path)
				links[st.Ino] = uint64(st.Nlink)
			}
		}
		if err != nil {
			t.Errorf("walk %s: %v", path, err)
		}
		return nil
	})
	for ino, paths := range names {
		if uint64(len(paths)) != links[ino] {
			t.Errorf("%d links of %v", links[ino], paths)
		}
	}
}

func readNames(t *testing.T, dir string) []string {
	t.Helper()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}
