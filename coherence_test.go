package idmount_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/fusefs"
	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/test/testenv"
)

// changes are what somebody does to a source beside the mount, and what it is
// that looks different then.
var changes = []struct {
	name   string
	setup  func(dir string) error
	change func(dir string) error
	look   func(dir string) string
}{
	{"a file appears", nil, func(d string) error { return os.WriteFile(d+"/new", nil, 0o644) }, names},
	{"a name that was absent", nil, func(d string) error { return os.WriteFile(d+"/new", []byte("1"), 0o644) }, stat("new")},
	{"a file goes", file("f"), func(d string) error { return os.Remove(d + "/f") }, stat("f")},
	{"a directory goes", func(d string) error { return os.Mkdir(d+"/sub", 0o755) }, func(d string) error { return os.Remove(d + "/sub") }, names},
	{"a file is renamed", file("f"), func(d string) error { return os.Rename(d+"/f", d+"/g") }, both(stat("f"), stat("g"))},
	{"a file takes another's place", files("f", "g"), func(d string) error { return os.Rename(d+"/f", d+"/g") }, read("g")},
	{"two files are exchanged", files("f", "g"), func(d string) error {
		return unix.Renameat2(unix.AT_FDCWD, d+"/f", unix.AT_FDCWD, d+"/g", unix.RENAME_EXCHANGE)
	}, both(read("f"), read("g"))},
	{"the mode", file("f"), func(d string) error { return os.Chmod(d+"/f", 0o600) }, stat("f")},
	{"the mode of a directory", nil, func(d string) error { return os.Chmod(d, 0o700) }, stat(".")},
	{"the owner", file("f"), func(d string) error { return os.Chown(d+"/f", 7, 8) }, stat("f")},
	{"the size by truncate", file("f"), func(d string) error { return os.Truncate(d+"/f", 100) }, stat("f")},
	{"the size by a write", file("f"), func(d string) error { return appendTo(d + "/f") }, stat("f")},
	{"the data", file("f"), func(d string) error { return os.WriteFile(d+"/f", []byte("other"), 0o644) }, read("f")},
	{"the times", file("f"), func(d string) error { return os.Chtimes(d+"/f", time.Unix(1, 0), time.Unix(2, 0)) }, stat("f")},
	{"the links", file("f"), func(d string) error { return os.Link(d+"/f", d+"/g") }, stat("f")},
	{"an ACL", file("f"), func(d string) error {
		return unix.Setxattr(d+"/f", "system.posix_acl_access", acl, 0)
	}, func(d string) string {
		buf := make([]byte, 100)
		n, err := unix.Getxattr(d+"/f", "system.posix_acl_access", buf)
		return fmt.Sprint(n, err)
	}},
}

// noACL is what the look at an ACL says where there are none: a FUSE mount has them.
var noACL = fmt.Sprint(-1, unix.EOPNOTSUPP)

// acl is user::rw-, user:7:r--, group::r--, mask::r--, other::r--.
var acl = []byte("\x02\x00\x00\x00" +
	"\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\x07\x00\x00\x00" + "\x04\x00\x04\x00\xff\xff\xff\xff" +
	"\x10\x00\x04\x00\xff\xff\xff\xff" + "\x20\x00\x04\x00\xff\xff\xff\xff")

func files(names ...string) func(string) error {
	return func(dir string) error {
		for _, name := range names {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
				return err
			}
		}
		return nil
	}
}

func file(name string) func(string) error { return files(name) }

func stat(name string) func(string) string {
	return func(dir string) string {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil {
			return err.Error()
		}
		return fmt.Sprintf("%o %d:%d %d bytes, %d links, %d", st.Mode, st.Uid, st.Gid, st.Size, st.Nlink, st.Mtim.Nano())
	}
}

func read(name string) func(string) string {
	return func(dir string) string {
		data, err := os.ReadFile(filepath.Join(dir, name))
		return fmt.Sprint(string(data), err)
	}
}

func both(a, b func(string) string) func(string) string {
	return func(dir string) string { return a(dir) + ", " + b(dir) }
}

func names(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err.Error()
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func appendTo(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString("more")
	return err
}

// With the default cache, what changes in the source is seen through the mount
// without anybody's waiting for an expiry: the bound here only tells the two
// apart. How long it took is logged.
func TestCoherence(t *testing.T) {
	for _, backend := range []idmount.Backend{idmount.Relay, idmount.Translate} {
		for _, fstype := range []string{"ext4", "xfs", "btrfs", "tmpfs", "overlay", "ramfs"} {
			for _, pass := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s/%s/passthrough=%v", backend, fstype, pass), func(t *testing.T) {
					source := testenv.Source(t, fstype)
					target, _ := mount(t, source, idmount.Options{
						Map: parse(t, "b:0:0:65536"), Backend: backend, NoPassthrough: !pass,
					})
					testCoherence(t, source, target, false)
				})
			}
		}
	}
}

// With cache none it is seen at once.
func TestNoCache(t *testing.T) {
	source := testenv.Source(t, "ext4")
	target, _ := mount(t, source, idmount.Options{
		Map: parse(t, "b:0:0:65536"), Backend: idmount.Translate, Cache: idmount.Cache{Mode: idmount.CacheNone},
	})
	testCoherence(t, source, target, true)
}

// What is changed through one place of the mount is seen through another that shows the
// same directory.
func TestCoherenceOfTwins(t *testing.T) {
	for _, backend := range []idmount.Backend{idmount.Relay, idmount.Translate} {
		for _, pass := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/passthrough=%v", backend, pass), func(t *testing.T) {
				source := testenv.Source(t, "ext4")
				for _, dir := range []string{"one", "one/by-one", "one/by-two", "two"} {
					if err := os.Mkdir(filepath.Join(source, dir), 0o755); err != nil {
						t.Fatal(err)
					}
				}
				one, two := filepath.Join(source, "one"), filepath.Join(source, "two")
				if err := unix.Mount(one, two, "", unix.MS_BIND, ""); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { unix.Unmount(two, unix.MNT_DETACH) })
				target, _ := mount(t, source, idmount.Options{
					Map: parse(t, "b:0:0:65536"), Backend: backend, NoPassthrough: !pass, Recursive: true,
				})
				testCoherence(t, target+"/one/by-one", target+"/two/by-one", false)
				testCoherence(t, target+"/two/by-two", target+"/one/by-two", false)
			})
		}
	}
}

// testCoherence makes changes in one directory and looks at them in another.
func testCoherence(t *testing.T, source, target string, atOnce bool) {
	var longest time.Duration
	for i, c := range changes {
		name := fmt.Sprint(i)
		below, above := filepath.Join(source, name), filepath.Join(target, name)
		if err := os.Mkdir(below, 0o755); err != nil {
			t.Fatal(err)
		}
		if c.setup != nil {
			if err := c.setup(below); err != nil {
				t.Fatal(err)
			}
		}
		before := c.look(above)
		if want := c.look(below); before != want && want != noACL {
			t.Errorf("%s: the mount shows %q at first, want %q", c.name, before, want)
		}
		if again := c.look(above); again != before {
			t.Errorf("%s: the mount shows %q again, want %q", c.name, again, before)
		}
		if err := c.change(below); errors.Is(err, unix.EOPNOTSUPP) {
			continue // ramfs has no ACLs
		} else if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		want := c.look(below)
		if want == before {
			t.Fatalf("%s changes nothing that can be seen: %q", c.name, want)
		}
		got := c.look(above)
		for got != want && !atOnce && time.Since(start) < fusefs.CoherentBound/2 {
			time.Sleep(100 * time.Microsecond)
			got = c.look(above)
		}
		longest = max(longest, time.Since(start))
		if got != want {
			t.Errorf("%s: the mount shows %q, want %q", c.name, got, want)
		}
	}
	t.Logf("the longest of %d changes took %v to be seen", len(changes), longest)
}

// A program whose owner changes it loses S_ISUID for the mount's users, too,
// whatever is cached.
func TestSetIDIsNeverCached(t *testing.T) {
	source := testenv.Source(t, "ext4")
	for _, mode := range []string{"coherent", "ttl=1h", "exclusive"} {
		cache, err := idmount.ParseCache(mode)
		if err != nil {
			t.Fatal(err)
		}
		target, _ := mount(t, source, idmount.Options{Map: parse(t, "b:0:0:65536"), Backend: idmount.Translate, Cache: cache})
		path := filepath.Join(source, mode)
		write(t, path, "program")
		if err := os.Chmod(path, os.ModeSetuid|0o755); err != nil {
			t.Fatal(err)
		}
		seen := stat(mode)(target)
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if got, want := stat(mode)(target), stat(mode)(source); got != want || got == seen {
			t.Errorf("%s: the mount shows %q after %q, want %q", mode, got, seen, want)
		}
	}
}

// A kernel forgets files that nobody holds, and then the handles of a FUSE source lead
// nowhere. A file without a name is not found in any other way either.
func TestFilesThatAFUSESourceForgets(t *testing.T) {
	testenv.RequireRoot(t)
	for _, backend := range backends[1:] {
		t.Run(string(backend), func(t *testing.T) {
			below := testenv.Source(t, "tmpfs")
			source, _ := mount(t, below, idmount.Options{Map: idmap.Identity(), Backend: idmount.Translate})
			target, _ := mount(t, source, idmount.Options{Map: parse(t, "b:0:100000:65536"), Backend: backend})
			for _, change := range []struct {
				name string
				make func() error
			}{
				{"forgotten", func() error { return os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0) }},
				{"renamed below", func() error { return os.Rename(below+"/f", below+"/g") }},
				{"unlinked", func() error { return os.Remove(target + "/f") }},
			} {
				write(t, below+"/f", "text")
				fd, err := unix.Open(target+"/f", unix.O_PATH|unix.O_CLOEXEC, 0)
				if err != nil {
					t.Fatal(err)
				}
				if err := change.make(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(50 * time.Millisecond) // till the source has been told
				if text, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", fd)); err != nil || string(text) != "text" {
					t.Errorf("%s: read %q, %v", change.name, text, err)
				}
				unix.Close(fd)
			}
		})
	}
}
