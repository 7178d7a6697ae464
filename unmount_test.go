package idmount_test

import (
	"context"
	"errors"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/detect"
	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/sys"
	"github.com/idmount/idmount/internal/test/testenv"
	"github.com/idmount/idmount/native"
)

// exchange renames two entries of a directory into each other until the test
// ends. It does so in a mount namespace of its own, made before it returns, where
// entries that become mount points later are none.
func exchange(t *testing.T, dir, one, two string) {
	t.Helper()
	var stop atomic.Bool
	var done sync.WaitGroup
	ready := make(chan error)
	done.Go(func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its namespace
		err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		fd := -1
		if err == nil {
			fd, err = unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
		}
		ready <- err
		if err != nil {
			return
		}
		defer unix.Close(fd)
		for !stop.Load() {
			unix.Renameat2(fd, one, fd, two, unix.RENAME_EXCHANGE)
			time.Sleep(20 * time.Microsecond) // the others need processors too
		}
	})
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop.Store(true)
		done.Wait()
	})
}

// What a user does to the directories above a mount never makes Unmount remove
// another mount.
func TestUnmountOfMovedPaths(t *testing.T) {
	testenv.RequireRoot(t)
	for _, tt := range []struct {
		name          string
		mount, victim string // what is mounted on, below the user's directory
		target        string // what is unmounted, below the user's directory
	}{
		// The user's directories dir and link change places all the time.
		{"symbolic link", "dir/mnt", "../other/mnt", "dir/mnt"},
		{"mount points", "dir", "link", "dir"},
		{"directories of mount points", "dir/mnt", "link/mnt", "dir/mnt"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			base := testenv.Dir(t)
			source, user := base+"/source", base+"/user"
			testenv.Mount(t, "tmpfs", source, "mode=0755")
			place, other := makePlace(t, user+"/"+tt.mount), makePlace(t, user+"/"+tt.victim)
			if _, err := os.Lstat(user + "/link"); err != nil {
				if err := os.Symlink(base+"/other", user+"/link"); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chown(user, 1000, 1000); err != nil {
				t.Fatal(err)
			}
			exchange(t, user, "dir", "link")
			if err := unix.Mount("victim", other, "tmpfs", 0, ""); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unmountPlace(t, other) })

			removed, mounted := 0, false
			m := parse(t, "b:0:100000:65536")
			for round := range 500 {
				if !mounted {
					err := native.Mount(source, place, native.Options{Map: m})
					if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
						testenv.Skip(t, testenv.NeedKernel, "no idmapped tmpfs: "+err.Error())
					}
					if err != nil {
						t.Fatal(err)
					}
					mounted = true
				}
				if err := idmount.Unmount(user+"/"+tt.target, false); err == nil {
					removed++
					mounted = false
				}
				if !victimMounted(t) {
					t.Fatalf("round %d: another mount was removed", round)
				}
			}
			if mounted {
				unmountPlace(t, place)
			}
			if removed == 0 {
				t.Error("the mount was never removed")
			}
			t.Logf("removed %d times", removed)
		})
	}
}

// makePlace makes a directory, and returns a path by which it is mounted on and
// unmounted under whatever name it has.
func makePlace(t *testing.T, path string) string {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return "/proc/self/fd/" + strconv.Itoa(int(f.Fd()))
}

// unmountPlace unmounts what is on a directory of makePlace: umount2 goes on from
// there to what is mounted on it (LOOKUP_MOUNTPOINT).
func unmountPlace(t *testing.T, place string) {
	t.Helper()
	if err := unix.Unmount(place, unix.MNT_DETACH); err != nil {
		t.Errorf("umount %s: %v", place, err)
	}
}

func victimMounted(t *testing.T) bool {
	t.Helper()
	all, err := mountinfo.GetMounts(nil)
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(all, func(m *mountinfo.Info) bool { return m.Source == "victim" })
}

// other tells the directories that change their names from the one that does not.
func other(path string) bool { return strings.HasSuffix(path, "-other") }

// Source and target of a mount are what was checked, whatever users do meanwhile
// to the directories above.
func TestMountOfMovedPaths(t *testing.T) {
	testenv.RequireRoot(t)
	for _, tt := range []struct {
		backend idmount.Backend
		rounds  int
	}{{idmount.Native, 300}, {idmount.Translate, 10}} {
		t.Run(string(tt.backend), func(t *testing.T) {
			base := testenv.Source(t, "tmpfs")
			for _, dir := range []string{base + "/source", base + "/target"} {
				makePlace(t, dir+"/dir")
				makePlace(t, dir+"-other")
				if err := os.Symlink(dir+"-other", dir+"/link"); err != nil {
					t.Fatal(err)
				}
				if err := os.Chown(dir, 1000, 1000); err != nil {
					t.Fatal(err)
				}
			}
			places := []string{makePlace(t, base+"/target/dir"), makePlace(t, base+"/target-other")}
			exchange(t, base+"/source", "dir", "link")
			exchange(t, base+"/target", "dir", "link")
			for range tt.rounds {
				m, err := idmount.Mount(context.Background(), base+"/source/dir", base+"/target/dir",
					idmount.Options{Map: idmap.Identity(), Backend: tt.backend, Daemon: testenv.Binary(t)})
				if errors.Is(err, detect.ErrUnsupported) {
					testenv.Skip(t, testenv.NeedKernel, err.Error())
				}
				if err != nil {
					t.Fatal(err)
				}
				all, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
					return !strings.HasPrefix(m.Mountpoint, base+"/target"), false
				})
				if err != nil || len(all) != 1 {
					t.Fatalf("mounted %d times: %v", len(all), err)
				}
				got := all[0]
				if tt.backend == idmount.Native && other(base+got.Root) != other(m.Source) {
					t.Fatalf("%s is mounted, and was %s", got.Root, m.Source)
				}
				if other(got.Mountpoint) != other(m.Target) {
					t.Fatalf("%s is mounted on, and was %s", got.Mountpoint, m.Target)
				}
				for _, place := range places {
					unix.Unmount(place, unix.MNT_DETACH) // one of them
				}
			}
		})
	}
}

// A mount that another one hides, on a directory above, is in nobody's way.
func TestUnmountBesideHiddenMount(t *testing.T) {
	testenv.RequireRoot(t)
	for _, left := range []bool{false, true} {
		source := testenv.Source(t, "tmpfs")
		dir := testenv.Dir(t)
		testenv.Mount(t, "tmpfs", dir, "")
		// A directory that others may write to, where mount points can be renamed.
		if err := unix.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		testenv.Mount(t, "tmpfs", dir+"/above/hidden", "")
		testenv.Mount(t, "tmpfs", dir+"/above", "")
		if left {
			if err := os.Mkdir(dir+"/above/hidden", 0o755); err != nil {
				t.Fatal(err)
			}
		}
		target := dir + "/target"
		if err := os.Mkdir(target, 0o755); err != nil {
			t.Fatal(err)
		}
		o := idmount.Options{Map: idmap.Identity(), Backend: idmount.Native}
		if _, err := idmount.Mount(t.Context(), source, target, o); err != nil {
			t.Fatal(err)
		}
		if err := idmount.Unmount(target, false); err != nil {
			t.Errorf("the directory is there again: %v: %v", left, err)
			unix.Unmount(target, unix.MNT_DETACH)
		}
	}
}

// A mount in a directory that this process may not search, as root may not on NFS with
// root_squash and in a user namespace, is in nobody's way.
func TestUnmountBesidePrivateMount(t *testing.T) {
	testenv.RequireRoot(t)
	for _, private := range []string{"private", "private/deeper"} {
		dir := testenv.Source(t, "tmpfs")
		for _, d := range []string{"source", "target", private + "/other"} {
			if err := os.MkdirAll(dir+"/"+d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		testenv.Mount(t, "tmpfs", dir+"/"+private+"/other", "")
		if err := unix.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(dir+"/private", 1000, 1000); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir+"/private", 0o700); err != nil {
			t.Fatal(err)
		}
		o := idmount.Options{Map: idmap.Identity(), Backend: idmount.Native}
		if _, err := idmount.Mount(t.Context(), dir+"/source", dir+"/target", o); err != nil {
			t.Fatal(err)
		}
		base, permitted, err := sys.ThreadCaps()
		if err != nil {
			t.Fatal(err)
		}
		sys.RunWithCaps(base.Without(unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH), base, permitted, func() unix.Errno {
			err = idmount.Unmount(dir+"/target", false)
			return 0
		})
		if err != nil {
			t.Errorf("%s: %v", private, err)
			unix.Unmount(dir+"/target", unix.MNT_DETACH)
		}
	}
}
