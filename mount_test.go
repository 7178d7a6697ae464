package idmount_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/detect"
	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/test/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

var backends = []idmount.Backend{idmount.Native, idmount.Relay, idmount.Translate}

func parse(t *testing.T, entries ...string) idmap.Map {
	t.Helper()
	m, err := idmap.Parse(entries, idmount.SystemResolver())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// mount mounts source at a new directory until the test ends.
func mount(t *testing.T, source string, o idmount.Options) (string, *idmount.Mounted) {
	t.Helper()
	target := testenv.Dir(t)
	o.Daemon = testenv.Binary(t)
	if o.Stacking == "" {
		o.Stacking = "0" // passthrough wherever it is possible
	}
	m, err := idmount.Mount(context.Background(), source, target, o)
	if errors.Is(err, detect.ErrUnsupported) {
		testenv.Skip(t, testenv.NeedKernel, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if slices.Contains(mountpoints(t), target) {
			if err := idmount.Unmount(target, false); err != nil {
				t.Error(err)
			}
		}
	})
	return target, m
}

func mountpoints(t *testing.T) []string {
	t.Helper()
	all, err := mountinfo.GetMounts(nil)
	if err != nil {
		t.Fatal(err)
	}
	var points []string
	for _, m := range all {
		points = append(points, m.Mountpoint)
	}
	return points
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func owner(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
}

func TestMountShowsOwners(t *testing.T) {
	testenv.RequireRoot(t)
	for _, backend := range backends {
		t.Run(string(backend), func(t *testing.T) {
			source := testenv.Source(t, "ext4")
			write(t, source+"/mapped", "")
			write(t, source+"/unmapped", "")
			write(t, source+"/half", "")
			for name, ids := range map[string][2]int{"mapped": {5, 7}, "unmapped": {70000, 70000}, "half": {5, 70000}} {
				if err := os.Chown(filepath.Join(source, name), ids[0], ids[1]); err != nil {
					t.Fatal(err)
				}
			}
			target, m := mount(t, source, idmount.Options{Map: parse(t, "b:0:100000:65536"), Backend: backend})
			if m.Backend != backend || m.Reason == "" {
				t.Errorf("backend %q, reason %q; want %q and a reason", m.Backend, m.Reason, backend)
			}
			for name, want := range map[string]string{
				"mapped": "100005:100007", "unmapped": "65534:65534", "half": "100005:65534",
			} {
				if got := owner(t, filepath.Join(target, name)); got != want {
					t.Errorf("%s: owner %s, want %s", name, got, want)
				}
			}
			// Root of the host is no one here.
			if err := os.WriteFile(target+"/new", nil, 0o644); !errors.Is(err, unix.EOVERFLOW) {
				t.Errorf("create by an unmapped caller: %v, want EOVERFLOW", err)
			}
			if _, err := os.ReadFile(target + "/mapped"); err != nil {
				t.Error(err)
			}
		})
	}
}

// Two names of one file are one inode, and an open file outlives its names.
func TestLinksAndUnlinkedFiles(t *testing.T) {
	testenv.RequireRoot(t)
	for _, fstype := range []string{"ext4", "overlay", "ramfs"} {
		for _, backend := range []idmount.Backend{idmount.Relay, idmount.Translate} {
			t.Run(fmt.Sprintf("%s/%s", fstype, backend), func(t *testing.T) {
				source := testenv.Source(t, fstype)
				target, _ := mount(t, source, idmount.Options{Map: idmap.Identity(), Backend: backend})
				write(t, target+"/a", "text")
				if err := os.Link(target+"/a", target+"/b"); err != nil {
					t.Fatal(err)
				}
				a, err := os.Stat(target + "/a")
				if err != nil {
					t.Fatal(err)
				}
				b, err := os.Stat(target + "/b")
				if err != nil {
					t.Fatal(err)
				}
				if !os.SameFile(a, b) {
					t.Error("two names of one file are two inodes")
				}
				f, err := os.OpenFile(target+"/b", os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				for _, name := range []string{"/a", "/b"} {
					if err := os.Remove(target + name); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := f.WriteAt([]byte("more"), 4); err != nil {
					t.Error(err)
				}
				if err := f.Chmod(0o600); err != nil {
					t.Error(err)
				}
				buf := make([]byte, 8)
				if _, err := f.ReadAt(buf, 0); err != nil || string(buf) != "textmore" {
					t.Errorf("read %q, %v", buf, err)
				}
				if info, err := f.Stat(); err != nil || info.Size() != 8 || info.Mode().Perm() != 0o600 {
					t.Errorf("stat %v, %v", info, err)
				}
			})
		}
	}
}

// Submounts are hidden or shown as on a native mount.
func TestRecursive(t *testing.T) {
	testenv.RequireRoot(t)
	for _, backend := range backends {
		for _, recursive := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/recursive=%v", backend, recursive), func(t *testing.T) {
				source := testenv.Source(t, "ext4")
				sub := filepath.Join(source, "sub")
				if err := os.Mkdir(sub, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := unix.Mount("tmpfs", sub, "tmpfs", 0, ""); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { unix.Unmount(sub, unix.MNT_DETACH) })
				write(t, sub+"/inner", "x")
				target, _ := mount(t, source, idmount.Options{
					Map: parse(t, "b:0:100000:65536"), Backend: backend, Recursive: recursive,
				})
				_, err := os.Stat(target + "/sub/inner")
				if got := err == nil; got != recursive {
					t.Fatalf("submount seen: %v (%v), want %v", got, err, recursive)
				}
				if recursive {
					if got := owner(t, target+"/sub/inner"); got != "100000:100000" {
						t.Errorf("owner in the submount %s", got)
					}
				}
			})
		}
	}
}

// The kernel's checks on a FUSE mount go by that mount's flags: those of the
// submounts must not get lost on the way.
func TestSubmountFlags(t *testing.T) {
	testenv.RequireRoot(t)
	program, err := exec.LookPath("id")
	if err != nil {
		t.Fatal(err)
	}
	for _, backend := range backends {
		t.Run(string(backend), func(t *testing.T) {
			source := testenv.Source(t, "ext4")
			for _, sub := range []string{"/sub", "/sub/deeper"} {
				if err := os.Mkdir(source+sub, 0o755); err != nil {
					t.Fatal(err)
				}
				testenv.Mount(t, "tmpfs", source+sub, "")
			}
			dir := source + "/sub/deeper"
			if err := exec.Command("cp", program, dir+"/id").Run(); err != nil {
				t.Fatal(err)
			}
			if err := unix.Chmod(dir+"/id", 0o4755); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mknod(dir+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(dir+"/null", 0o666); err != nil {
				t.Fatal(err)
			}
			try := func() string {
				target, _ := mount(t, source, idmount.Options{Map: idmap.Identity(), Backend: backend, Recursive: true})
				if err := os.Chmod(target, 0o755); err != nil {
					t.Fatal(err)
				}
				cmd := exec.Command(target+"/sub/deeper/id", "-u")
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 12345, Gid: 12345}}
				out, err := cmd.Output()
				if err != nil {
					t.Error(err)
				}
				f, err := os.Open(target + "/sub/deeper/null")
				if err == nil {
					f.Close()
				}
				return fmt.Sprintf("user %s, device %v", strings.TrimSpace(string(out)), errors.Is(err, unix.EACCES))
			}
			if got, want := try(), "user 0, device false"; got != want {
				t.Errorf("without flags: %s, want %s", got, want)
			}
			if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
				t.Fatal(err)
			}
			if got, want := try(), "user 12345, device true"; got != want {
				t.Errorf("nosuid, nodev: %s, want %s", got, want)
			}
		})
	}
}

func TestMountOptions(t *testing.T) {
	testenv.RequireRoot(t)
	for _, backend := range backends {
		t.Run(string(backend), func(t *testing.T) {
			source := testenv.Source(t, "ext4")
			write(t, source+"/f", "")
			target, _ := mount(t, source, idmount.Options{
				Map: idmap.Identity(), Backend: backend, MountOptions: "ro,nosuid,nodev,noexec,noatime",
			})
			if err := os.WriteFile(target+"/g", nil, 0o644); !errors.Is(err, unix.EROFS) {
				t.Errorf("create on ro: %v", err)
			}
			all, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(target))
			if err != nil || len(all) != 1 {
				t.Fatal(all, err)
			}
			for _, want := range []string{"ro", "nosuid", "nodev", "noexec", "noatime"} {
				if !slices.Contains(strings.Split(all[0].Options, ","), want) {
					t.Errorf("mount table has %s, want %s", all[0].Options, want)
				}
			}
		})
	}
}

// What fails leaves no mount behind, and names what was wrong.
func TestMountErrors(t *testing.T) {
	testenv.RequireRoot(t)
	dir := testenv.Source(t, "tmpfs")
	for _, d := range []string{"src/sub", "dst"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir+"/file", "")
	src, dst := dir+"/src", dir+"/dst"
	m := parse(t, "b:0:1000:10")
	for _, test := range []struct {
		name, source, target string
		options              idmount.Options
		want                 string
	}{
		{"no map", src, dst, idmount.Options{}, "no map"},
		{"no source", dir + "/none", dst, idmount.Options{Map: m}, "source " + dir + "/none: no such file"},
		{"no target", src, dir + "/none", idmount.Options{Map: m}, "target " + dir + "/none: no such file"},
		{"source is a file", dir + "/file", dst, idmount.Options{Map: m}, "is no directory"},
		{"target below source", src, src + "/sub", idmount.Options{Map: m}, "below the source"},
		{"source below target", src + "/sub", src, idmount.Options{Map: m}, "below the target"},
		{"option", src, dst, idmount.Options{Map: m, MountOptions: "ro,bogus"}, `"bogus"`},
		{"backend", src, dst, idmount.Options{Map: m, Backend: "magic"}, `"magic"`},
		{"no daemon", src, dst, idmount.Options{Map: m, Backend: idmount.Translate, Daemon: "/nonexistent"}, "/nonexistent"},
		{"daemon fails", src, dst, idmount.Options{Map: m, Backend: idmount.Translate, Daemon: "/bin/false"}, "ended before the mount was ready"},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := mountpoints(t)
			_, err := idmount.Mount(context.Background(), test.source, test.target, test.options)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
			if after := mountpoints(t); !slices.Equal(before, after) {
				t.Errorf("mounts before %q, after %q", before, after)
			}
		})
	}
}

func TestUnmountRefusesOthers(t *testing.T) {
	testenv.RequireRoot(t)
	dir := testenv.Source(t, "tmpfs")
	if err := idmount.Unmount(dir, false); !errors.Is(err, idmount.ErrNotOurs) {
		t.Errorf("tmpfs: %v, want ErrNotOurs", err)
	}
	if !slices.Contains(mountpoints(t), dir) {
		t.Error("it was unmounted all the same")
	}
}

// The server's process ends with the mount, and has let go of the source when
// Unmount returns.
func TestUnmountFreesTheSource(t *testing.T) {
	testenv.RequireRoot(t)
	source := testenv.Source(t, "ext4")
	target, m := mount(t, source, idmount.Options{Map: idmap.Identity(), Backend: idmount.Translate})
	f, err := os.Create(target + "/open")
	if err != nil {
		t.Fatal(err)
	}
	if err := idmount.Unmount(target, false); !errors.Is(err, unix.EBUSY) {
		t.Errorf("with an open file: %v, want EBUSY", err)
	}
	f.Close()
	if err := idmount.Unmount(target, false); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.PID)); err == nil && !strings.Contains(string(text), ") Z ") {
		t.Errorf("the server still runs: %s", text)
	}
	fd, err := unix.Open(source, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
}

// SIGTERM ends a server and its mount.
func TestDaemonEndsOnSignal(t *testing.T) {
	testenv.RequireRoot(t)
	target, m := mount(t, testenv.Source(t, "tmpfs"), idmount.Options{Map: idmap.Identity(), Backend: idmount.Translate})
	endDaemon(t, target, m)
}

// It does so if the source answers nobody, and the mount neither.
func TestDaemonEndsBesideSilentSource(t *testing.T) {
	testenv.RequireRoot(t)
	source := testenv.Dir(t)
	silent := exec.Command("bindfs", "-f", "-o", "attr_timeout=0", testenv.Source(t, "tmpfs"), source)
	if err := silent.Start(); errors.Is(err, exec.ErrNotFound) {
		testenv.Skip(t, testenv.NeedProgram, err.Error())
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		silent.Process.Signal(unix.SIGCONT)
		unix.Unmount(source, 0)
		silent.Wait()
	})
	testenv.WaitFor(t, "bindfs has not mounted", func() bool { return slices.Contains(mountpoints(t), source) })
	target, m := mount(t, source, idmount.Options{
		Map: idmap.Identity(), Backend: idmount.Translate, Cache: idmount.Cache{Mode: idmount.CacheNone},
	})
	if err := silent.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	endDaemon(t, target, m)
}

func endDaemon(t *testing.T, target string, m *idmount.Mounted) {
	t.Helper()
	if err := unix.Kill(m.PID, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	testenv.WaitFor(t, "still mounted", func() bool { return !slices.Contains(mountpoints(t), target) })
}

func TestMountedJSON(t *testing.T) {
	for _, test := range []struct{ target, more string }{
		{"/b", `"target":"/b"`},
		{"/\xff", `"target":"/\ufffd","target_bytes":"L/8="`},
	} {
		m := idmount.Mounted{Backend: idmount.Native, Reason: "because", Source: "/a", Target: test.target}
		got, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if want := `{"backend":"native","reason":"because","source":"/a",` + test.more + `}`; string(got) != want {
			t.Errorf("got %s, want %s", got, want)
		}
		var again idmount.Mounted
		if err := json.Unmarshal(got, &again); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, again); diff != "" {
			t.Errorf("read back (-want +got):\n%s", diff)
		}
	}
}

// More files than the server may have descriptors, on a source that can't open
// by handle.
func TestMoreFilesThanDescriptors(t *testing.T) {
	testenv.RequireRoot(t)
	if testing.Short() {
		testenv.Skip(t, testenv.ShortRun, "makes more files than RLIMIT_NOFILE")
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	files := int(min(limit.Max, 20000)) + 2000
	source := testenv.Source(t, "ramfs")
	const perDir = 1000
	for i := range files {
		dir := filepath.Join(source, fmt.Sprint(i/perDir))
		if i%perDir == 0 {
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		write(t, filepath.Join(dir, fmt.Sprint(i)), "")
	}
	target, m := mount(t, source, idmount.Options{Map: parse(t, "b:0:100000:65536"), Backend: idmount.Translate})
	seen := 0
	err := filepath.WalkDir(target, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode().IsRegular() {
			seen++
		}
		return err
	})
	if err != nil || seen != files {
		t.Errorf("walked %d files of %d: %v", seen, files, err)
	}
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", m.PID))
	if err != nil {
		t.Fatal(err)
	}
	if len(open) > int(limit.Max)/2+100 {
		t.Errorf("the server has %d descriptors open", len(open))
	}
	t.Logf("%d files, %d descriptors", seen, len(open))
}

// statx(2) through the mount has what it has on the source, but the owner.
func TestStatx(t *testing.T) {
	testenv.RequireRoot(t)
	for _, backend := range backends {
		t.Run(string(backend), func(t *testing.T) {
			source := testenv.Source(t, "ext4")
			write(t, source+"/f", "text")
			if err := unix.Mknod(source+"/dev", unix.S_IFCHR|0o600, int(unix.Mkdev(259, 70000))); err != nil {
				t.Fatal(err)
			}
			target, _ := mount(t, source, idmount.Options{Map: parse(t, "b:0:100000:65536"), Backend: backend})
			for _, name := range []string{"f", "dev", "."} {
				var want, got unix.Statx_t
				const mask = unix.STATX_BASIC_STATS | unix.STATX_BTIME
				if err := unix.Statx(unix.AT_FDCWD, filepath.Join(source, name), unix.AT_SYMLINK_NOFOLLOW, mask, &want); err != nil {
					t.Fatal(err)
				}
				if err := unix.Statx(unix.AT_FDCWD, filepath.Join(target, name), unix.AT_SYMLINK_NOFOLLOW, mask, &got); err != nil {
					t.Fatal(err)
				}
				if got.Uid != 100000 || got.Gid != 100000 {
					t.Errorf("%s: owner %d:%d", name, got.Uid, got.Gid)
				}
				type fields struct {
					Mask, Nlink, RdevMajor, RdevMinor uint32
					Mode                              uint16
					Ino, Size, Blocks                 uint64
					Atime, Btime, Ctime, Mtime        unix.StatxTimestamp
				}
				pick := func(s *unix.Statx_t) fields {
					return fields{s.Mask & mask, s.Nlink, s.Rdev_major, s.Rdev_minor, s.Mode, s.Ino, s.Size, s.Blocks,
						s.Atime, s.Btime, s.Ctime, s.Mtime}
				}
				if diff := cmp.Diff(pick(&want), pick(&got)); diff != "" {
					t.Errorf("%s (-source +mount):\n%s", name, diff)
				}
			}
		})
	}
}

// A caller who gives up, at whatever moment, leaves no mount and no server.
func TestMountCancelled(t *testing.T) {
	testenv.RequireRoot(t)
	source, target := testenv.Source(t, "tmpfs"), testenv.Dir(t)
	before := mountpoints(t)
	cancelled := 0
	for delay := time.Duration(0); delay < 60*time.Millisecond; delay += 4 * time.Millisecond {
		ctx, cancel := context.WithTimeout(context.Background(), delay)
		_, err := idmount.Mount(ctx, source, target, idmount.Options{
			Map: idmap.Identity(), Backend: idmount.Translate, Daemon: testenv.Binary(t),
		})
		cancel()
		if err == nil {
			if err := idmount.Unmount(target, false); err != nil {
				t.Fatal(err)
			}
			continue
		}
		cancelled++
		if after := mountpoints(t); !slices.Equal(before, after) {
			t.Fatalf("after %v: mounts before %q, after %q", delay, before, after)
		}
	}
	if cancelled == 0 {
		t.Error("no attempt was cancelled")
	}
}
