package idmount

import (
	"context"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/detect"
	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/sys"
	"github.com/idmount/idmount/internal/test/testenv"
)

func parseMap(t *testing.T, entries ...string) idmap.Map {
	t.Helper()
	m, err := idmap.Parse(entries, nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestSameMap compares maps by each of the three ways that kernels and servers leave.
func TestSameMap(t *testing.T) {
	testenv.RequireRoot(t)
	source := testenv.Source(t, "tmpfs")
	if err := os.Chown(source, 5, 7); err != nil {
		t.Fatal(err)
	}
	src, err := sys.OpenTree(source, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	users := parseMap(t, "u:5:1005:1") // the kernel gets a stand-in for groups
	for _, backend := range []Backend{Native, Relay, Translate} {
		target := testenv.Dir(t)
		_, err := Mount(context.Background(), source, target, Options{Map: users, Backend: backend, Daemon: testenv.Binary(t)})
		if errors.Is(err, detect.ErrUnsupported) {
			testenv.Skip(t, testenv.NeedKernel, err.Error())
		}
		if err != nil {
			t.Fatal(err)
		}
		root, err := openPath("target", target)
		if err != nil {
			t.Fatal(err)
		}
		e, err := findExisting(root)
		if err != nil || e == nil {
			t.Fatalf("%s: %+v, %v", backend, e, err)
		}
		check := func(way string) {
			t.Helper()
			for m, want := range map[*idmap.Map]bool{&users: true, ptr(parseMap(t, "u:5:1006:1")): false, ptr(parseMap(t, "b:5:1005:3")): false} {
				if got, err := e.sameMap(*m, src, false); got != want || err != nil {
					t.Errorf("%s, %s: %v is the same: %v, %v; want %v", backend, way, m, got, err, want)
				}
			}
		}
		if (e.record != nil) != (backend != Native) {
			t.Errorf("%s: record %+v", backend, e.record)
		}
		check("by the record")
		e.record = nil
		check("without a record")
		root.Close()
		if err := Unmount(target, false); err != nil {
			t.Error(err)
		}
	}
}

func ptr[T any](v T) *T { return &v }

// TestRemountSubmounts: a remount is about one mount, and leaves those below alone.
func TestRemountSubmounts(t *testing.T) {
	testenv.RequireRoot(t)
	source := testenv.Source(t, "tmpfs")
	testenv.Mount(t, "tmpfs", source+"/below", "")
	if err := unix.Mount("", source+"/below", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_NOSUID, ""); err != nil {
		t.Fatal(err)
	}
	target := testenv.Dir(t)
	o := Options{Map: idmap.Identity(), Backend: Translate, Recursive: true, MountOptions: "nodev", Daemon: testenv.Binary(t)}
	if _, err := Mount(context.Background(), source, target, o); err != nil {
		t.Fatal(err)
	}
	defer Unmount(target, false)
	if err := Remount(source, target, Options{MountOptions: "suid,dev,noexec"}); err != nil {
		t.Error(err)
	}
	const all = unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC
	for path, want := range map[string]int64{target: unix.ST_NOEXEC, target + "/below": unix.ST_NOSUID | unix.ST_NODEV} {
		var st unix.Statfs_t
		if err := unix.Statfs(path, &st); err != nil {
			t.Fatal(err)
		}
		if got := int64(st.Flags) & all; got != want {
			t.Errorf("%s: flags %#x, want %#x", path, got, want)
		}
	}
}

// TestSameMountOfReadOnlySource: the file system of the source is read-only, and not
// its mount. A FUSE mount shows that as a flag of its own.
func TestSameMountOfReadOnlySource(t *testing.T) {
	testenv.RequireRoot(t)
	source := testenv.Source(t, "tmpfs")
	if err := unix.Mount("", source, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", source, "", unix.MS_REMOUNT|unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	for _, backend := range []Backend{Native, Translate} {
		target := testenv.Dir(t)
		o := Options{Map: idmap.Identity(), Backend: backend, Daemon: testenv.Binary(t)}
		if _, err := Mount(context.Background(), source, target, o); err != nil {
			t.Fatal(err)
		}
		if _, err := Mount(context.Background(), source, target, o); !errors.Is(err, ErrMounted) {
			t.Errorf("%s, again: %v, want ErrMounted", backend, err)
		}
		o.MountOptions = "noexec"
		if _, err := Mount(context.Background(), source, target, o); errors.Is(err, ErrMounted) || !errors.Is(err, unix.EBUSY) {
			t.Errorf("%s, noexec: %v, want EBUSY", backend, err)
		}
		if err := Unmount(target, false); err != nil {
			t.Error(err)
		}
	}
}

// A remount keeps the kind of access time, as `mount -o remount,bind` does, and the same
// mount is known by it.
func TestKindsOfAccessTime(t *testing.T) {
	testenv.RequireRoot(t)
	source := testenv.Source(t, "tmpfs")
	for _, backend := range []Backend{Native, Relay, Translate} {
		for _, kind := range []string{"strictatime", "relatime", "noatime", "strictatime,nodiratime"} {
			target := testenv.Dir(t)
			o := Options{Map: idmap.Identity(), Backend: backend, Daemon: testenv.Binary(t), MountOptions: kind}
			_, err := Mount(context.Background(), source, target, o)
			if errors.Is(err, detect.ErrUnsupported) {
				testenv.Skip(t, testenv.NeedKernel, err.Error())
			}
			if err != nil {
				t.Fatal(err)
			}
			flags := func() int64 {
				var st unix.Statfs_t
				if err := unix.Statfs(target, &st); err != nil {
					t.Fatal(err)
				}
				return st.Flags
			}
			before := flags()
			if _, err := Mount(context.Background(), source, target, o); !errors.Is(err, ErrMounted) {
				t.Errorf("%s, %s: once more: %v, want that it is mounted", backend, kind, err)
			}
			if err := Remount("", target, Options{MountOptions: "remount,nosuid"}); err != nil {
				t.Error(err)
			}
			if after, want := flags(), before|unix.ST_NOSUID; after != want {
				t.Errorf("%s, %s: flags %#x after a remount, want %#x", backend, kind, after, want)
			}
			if err := Unmount(target, false); err != nil {
				t.Fatal(err)
			}
		}
	}
}
