package idmount_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/fusefs"
	"github.com/idmount/idmount/internal/test/testenv"
)

// hidden are changes of a file or directory in the directory seen, which the mount knows,
// that come by way of something else: a directory that the mount does not know, a
// descriptor, another mount, a lower layer. The source has another mount at other.
var hidden = []struct {
	name   string
	lower  func(lower string) error // makes what is there before the overlay is
	setup  func(source string) error
	change func(source, other, target string) error
	look   func(dir string) string
}{
	{name: "a link from elsewhere", setup: file("seen/f"),
		change: func(s, _, _ string) error { return os.Link(s+"/seen/f", s+"/unseen/g") }, look: stat("seen/f")},
	{name: "the mode by a link made elsewhere", setup: file("seen/f"),
		change: func(s, _, _ string) error {
			if err := os.Link(s+"/seen/f", s+"/unseen/g"); err != nil {
				return err
			}
			return os.Chmod(s+"/unseen/g", 0o600)
		}, look: stat("seen/f")},
	{name: "the mode by another name", setup: linked,
		change: func(s, _, _ string) error { return os.Chmod(s+"/unseen/g", 0o600) }, look: stat("seen/f")},
	{name: "data by another name", setup: linked,
		change: func(s, _, _ string) error { return os.WriteFile(s+"/unseen/g", []byte("other"), 0o644) }, look: read("seen/f")},
	{name: "data by a descriptor of a name that is gone", setup: linked,
		change: func(s, _, target string) error {
			return through(s+"/unseen/g", func() error { return os.Remove(s + "/unseen/g") }, func() { both(stat("seen/f"), read("seen/f"))(target) })
		}, look: both(stat("seen/f"), read("seen/f"))},
	{name: "the mode by a descriptor of a file that moves", setup: files("unseen/f", "seen/f"),
		change: func(s, _, target string) error {
			f, err := os.Open(s + "/unseen/f")
			if err != nil {
				return err
			}
			defer f.Close()
			if err := os.Rename(s+"/unseen/f", s+"/seen/f"); err != nil {
				return err
			}
			for range 2 {
				stat("seen/f")(target)
				time.Sleep(10 * time.Millisecond) // till it is kept
			}
			return f.Chmod(0o600)
		}, look: stat("seen/f")},
	{name: "the mode by a descriptor through /proc", setup: file("seen/f"),
		change: func(s, _, _ string) error {
			fd, err := unix.Open(s+"/seen/f", unix.O_PATH|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return os.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), 0o600)
		}, look: stat("seen/f")},
	{name: "by another mount", setup: file("seen/f"),
		change: func(_, other, _ string) error { return os.Chmod(other+"/seen/f", 0o600) }, look: stat("seen/f")},
	{name: "a name by another mount",
		change: func(_, other, _ string) error { return os.WriteFile(other+"/seen/new", nil, 0o644) }, look: both(names1("seen"), stat("seen/new"))},
	{name: "a file of the lower layer is written to", lower: file("seen/f"),
		change: func(s, _, _ string) error { return appendTo(s + "/seen/f") }, look: both(stat("seen/f"), read("seen/f"))},
	{name: "the mode of a file of the lower layer", lower: file("seen/f"),
		change: func(s, _, _ string) error { return os.Chmod(s+"/seen/f", 0o600) }, look: stat("seen/f")},
	{name: "the mode of a directory of the lower layer", lower: file("seen/sub/f"),
		change: func(s, _, _ string) error { return os.Chmod(s+"/seen/sub", 0o700) }, look: both(stat("seen/sub"), stat("seen/sub/f"))},
	{name: "a file of the lower layer goes", lower: file("seen/f"),
		change: func(s, _, _ string) error { return os.Remove(s + "/seen/f") }, look: both(stat("seen/f"), names1("seen"))},
	{name: "a file of the lower layer with two names", lower: linked,
		change: func(s, _, _ string) error { return os.WriteFile(s+"/seen/f", []byte("other"), 0o600) }, look: both(stat("seen/f"), read("seen/f"))},
	{name: "a name in a directory that moved", setup: file("seen/sub/f"),
		change: func(s, _, _ string) error {
			if err := os.Rename(s+"/seen/sub", s+"/seen/moved"); err != nil {
				return err
			}
			return os.WriteFile(s+"/seen/moved/new", nil, 0o644)
		}, look: both(stat("seen/sub/f"), both(stat("seen/moved/f"), stat("seen/moved/new")))},
	{name: "a directory by its descriptor", setup: file("seen/sub/f"),
		change: func(s, _, _ string) error {
			f, err := os.Open(s + "/seen/sub")
			if err != nil {
				return err
			}
			defer f.Close()
			if err := os.Rename(s+"/seen/sub", s+"/unseen/sub"); err != nil {
				return err
			}
			if err := os.Rename(s+"/unseen/sub", s+"/seen/sub"); err != nil {
				return err
			}
			return f.Chmod(0o700)
		}, look: stat("seen/sub")},
	{name: "a parent goes", setup: file("seen/sub/f"),
		change: func(s, _, _ string) error { return os.Rename(s+"/seen", s+"/elsewhere") }, look: stat("seen/sub/f")},
}

var linked = func(dir string) error {
	if err := file("seen/f")(dir); err != nil {
		return err
	}
	return os.Link(dir+"/seen/f", dir+"/unseen/g")
}

func names1(sub string) func(string) string {
	return func(dir string) string { return names(filepath.Join(dir, sub)) }
}

// through opens a file, makes a change, lets it be seen, and then writes by the descriptor.
func through(path string, change func() error, seen func()) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := change(); err != nil {
		return err
	}
	for range 2 {
		seen()
		time.Sleep(10 * time.Millisecond) // till it is kept
	}
	_, err = f.WriteString("more")
	return err
}

// On sources whose files don't open by handle, each file is watched, and so whatever
// changes it is seen.
func TestHiddenChangesOfAnOverlay(t *testing.T) {
	for _, layers := range []string{"tmpfs", "ext4"} {
		for _, pass := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/passthrough=%v", layers, pass), func(t *testing.T) {
				base := testenv.Source(t, layers)
				source, other := overlayWith(t, base)
				target, m := mount(t, source, idmount.Options{
					Map: parse(t, "b:0:0:65536"), Backend: idmount.Translate, NoPassthrough: !pass,
				})
				if m.Cache != "coherent" {
					testenv.Skip(t, testenv.NeedKernel, fmt.Sprintf("cache %s: %s", m.Cache, m.CacheReason))
				}
				testHidden(t, source, target, other)
			})
		}
	}
}

// overlayWith makes an overlay, and another mount of it, with what the changes need below.
func overlayWith(t *testing.T, base string) (source, other string) {
	t.Helper()
	for _, name := range []string{"lower", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(base, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for i, c := range hidden {
		below := filepath.Join(base, "lower", fmt.Sprint(i))
		for _, dir := range []string{"seen/sub", "unseen"} {
			if err := os.MkdirAll(filepath.Join(below, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if c.lower != nil {
			if err := c.lower(below); err != nil {
				t.Fatal(err)
			}
		}
	}
	source, other = testenv.Dir(t), testenv.Dir(t)
	testenv.Mount(t, "overlay", source, fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work,redirect_dir=on", base))
	if err := unix.Mount(source, other, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(other, unix.MNT_DETACH) })
	return source, other
}

func testHidden(t *testing.T, source, target, other string) {
	for i, c := range hidden {
		name := fmt.Sprint(i)
		below, above, beside := filepath.Join(source, name), filepath.Join(target, name), filepath.Join(other, name)
		if c.setup != nil {
			if err := c.setup(below); err != nil {
				t.Fatal(err)
			}
		}
		before := c.look(above)
		if want := c.look(below); before != want {
			t.Errorf("%s: the mount shows %q at first, want %q", c.name, before, want)
		}
		c.look(above)
		if err := c.change(below, beside, above); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		start := time.Now()
		want := c.look(below)
		if want == before {
			t.Fatalf("%s changes nothing that can be seen: %q", c.name, want)
		}
		got := c.look(above)
		for got != want && time.Since(start) < fusefs.CoherentBound/2 {
			time.Sleep(time.Millisecond)
			got = c.look(above)
		}
		if got != want {
			t.Errorf("%s: the mount shows %q after %v, want %q", c.name, got, time.Since(start), want)
		}
	}
}

// A file that was made without a name is changed by the descriptor that made it, which
// leads to no directory that is watched.
func TestFileMadeWithoutANameBelow(t *testing.T) {
	source, _ := overlayWith(t, testenv.Source(t, "tmpfs"))
	target, m := mount(t, source, idmount.Options{Map: parse(t, "b:0:0:65536"), Backend: idmount.Translate})
	if m.Cache != "coherent" {
		testenv.Skip(t, testenv.NeedKernel, fmt.Sprintf("cache %s: %s", m.Cache, m.CacheReason))
	}
	fd, err := unix.Open(source+"/0/unseen", unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err == unix.EOPNOTSUPP {
		testenv.Skip(t, testenv.NeedKernel, "O_TMPFILE on overlayfs, Linux 6.1")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, source+"/0/seen/f", unix.AT_SYMLINK_FOLLOW); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got, want := stat("0/seen/f")(target), stat("0/seen/f")(source); got != want {
			t.Fatalf("the mount shows %q, want %q", got, want)
		}
	}
	if _, err := unix.Write(fd, []byte("text")); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	want := stat("0/seen/f")(source)
	testenv.WaitFor(t, "the size is not seen", func() bool { return stat("0/seen/f")(target) == want })
	if took := time.Since(start); took > fusefs.CoherentBound/2 {
		t.Errorf("it took %v until the size was seen", took)
	}
}
