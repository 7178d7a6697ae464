package idmount_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/detect"
	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/test/testenv"
)

// useFile is what users do with a file, each command with its outcome.
const useFile = `
do_() { echo "+ $*"; "$@" 2>&1; echo "= $?"; }
show() { do_ stat -c '%F %a %u:%g %s %h %t,%T' "$F"; do_ getfacl -nEpc "$F"; do_ getfattr -m 'user|security' -d "$F"; }
show
do_ cat "$F"
do_ sh -c 'echo more >> "$F"'
do_ dd if="$F" bs=4 skip=1 count=1 status=none
do_ truncate -s 30 "$F"
do_ fallocate -l 64 "$F"
do_ fallocate -p -o 0 -l 8 "$F"
show
do_ sh -c 'exec 3<"$F"; flock -n 3'
do_ chmod 2755 "$F"; show
do_ chmod 750 "$F"; show
do_ setfacl -m u:1006:r,g:1007:rw "$F"; show
do_ setfacl -b "$F"
do_ chown 1006:1007 "$F"; show
do_ chown 1005:1005 "$F"
do_ setfattr -n user.name -v value "$F"; show
do_ sh -c 'touch -d @1000 "$F" && stat -c %Y "$F"'
do_ sh -c 'printf "#!/bin/sh\necho run\n" > "$F"'
do_ chmod 755 "$F"
do_ "$F"
do_ ln "$F" "$F.link"
do_ mv "$F" "$F.moved"
do_ rm -f "$F"
do_ ls "$F/" "$F/.." "$F/sibling"
show
`

// A file as a source is as it is on a native mount, for root and for users.
func TestMountFile(t *testing.T) {
	testenv.RequireRoot(t)
	m := parse(t, "b:0:0:5", "b:5:1005:10")
	outcomes := make(map[idmount.Backend]string)
	for _, backend := range backends {
		t.Run(string(backend), func(t *testing.T) {
			source, dir := testenv.Source(t, "ext4"), testenv.Dir(t)
			write(t, source+"/file", "some text\n")
			write(t, source+"/sibling", "")
			if err := os.Chown(source+"/file", 5, 7); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("file", source+"/link"); err != nil {
				t.Fatal(err)
			}
			target := dir + "/target"
			write(t, target, "covered")
			o := idmount.Options{Map: m, Backend: backend, Daemon: testenv.Binary(t)}
			if _, err := idmount.Mount(context.Background(), source+"/link", target, o); errors.Is(err, detect.ErrUnsupported) {
				testenv.Skip(t, testenv.NeedKernel, err.Error())
			} else if err != nil {
				t.Fatal(err)
			}
			defer idmount.Unmount(target, true)

			var all strings.Builder
			for _, uid := range []uint32{1005, 1006, 0, 70000} {
				if err := os.Chown(source+"/file", 5, 7); err != nil {
					t.Fatal(err)
				}
				c := exec.Command("sh", "-c", useFile)
				c.Env = append(os.Environ(), "F=./target", "LC_ALL=C")
				c.Dir = dir
				c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
				out, err := c.CombinedOutput()
				if err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				all.Write(out)
			}
			outcomes[backend] = all.String()
			if diff := cmp.Diff(strings.Split(outcomes[idmount.Native], "\n"), strings.Split(outcomes[backend], "\n")); outcomes[idmount.Native] != "" && diff != "" {
				t.Errorf("outcomes (-native +%s):\n%s", backend, diff)
			}

			// Locks and stores are shared with the source.
			f, err := os.OpenFile(source+"/file", os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			g, err := os.OpenFile(target, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer g.Close()
			lock := unix.Flock_t{Type: unix.F_WRLCK}
			if err := unix.FcntlFlock(g.Fd(), unix.F_OFD_SETLK, &lock); err != nil {
				t.Error("lock:", err)
			}
			lock = unix.Flock_t{Type: unix.F_WRLCK}
			if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock); err != unix.EAGAIN {
				t.Errorf("lock at the source: %v, want EAGAIN", err)
			}
			mem, err := unix.Mmap(int(g.Fd()), 0, 4, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				t.Fatal(err)
			}
			copy(mem, "mmap")
			if err := unix.Msync(mem, unix.MS_SYNC); err != nil {
				t.Error(err)
			}
			if err := unix.Munmap(mem); err != nil {
				t.Error(err)
			}
			if text, _ := os.ReadFile(source + "/file"); !strings.HasPrefix(string(text), "mmap") {
				t.Errorf("stored at the mount, and the source has %q", text)
			}

			// The mount stays with the file when its name gets another, as natively.
			write(t, source+"/new", "new")
			if err := os.Rename(source+"/new", source+"/file"); err != nil {
				t.Fatal(err)
			}
			if text, err := os.ReadFile(target); err != nil || !strings.HasPrefix(string(text), "mmap") {
				t.Errorf("after a rename over the source: %q, %v", text, err)
			}
			var st unix.Stat_t
			if err := unix.Stat(target, &st); err != nil || st.Nlink != 0 {
				t.Errorf("%d links, %v; want 0", st.Nlink, err)
			}
			f.Close()
			g.Close()
			if err := idmount.Unmount(target, false); err != nil {
				t.Error(err)
			}
			if text, _ := os.ReadFile(target); string(text) != "covered" {
				t.Errorf("after umount: %q", text)
			}
		})
	}
}

// Nothing is mounted on what is of another kind.
func TestMountKinds(t *testing.T) {
	testenv.RequireRoot(t)
	source, dir := testenv.Source(t, "ext4"), testenv.Dir(t)
	write(t, source+"/file", "")
	write(t, dir+"/file", "")
	for name, mode := range map[string]uint32{"fifo": unix.S_IFIFO, "socket": unix.S_IFSOCK, "null": unix.S_IFCHR} {
		if err := unix.Mknod(source+"/"+name, mode|0o644, int(unix.Mkdev(1, 3))); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(dir+"/dir", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, backend := range backends {
		for _, tt := range []struct {
			source, target string
			want           error
		}{
			{"", "file", unix.ENOTDIR},
			{"file", "dir", unix.EISDIR},
			{"fifo", "file", detect.ErrUnsupported},
			{"socket", "file", detect.ErrUnsupported},
			{"null", "file", nil},
		} {
			want := tt.want
			if backend == idmount.Native && want == detect.ErrUnsupported {
				want = nil
			}
			o := idmount.Options{Map: idmap.Identity(), Backend: backend, Daemon: testenv.Binary(t)}
			_, err := idmount.Mount(context.Background(), source+"/"+tt.source, dir+"/"+tt.target, o)
			if backend == idmount.Native && want == nil && errors.Is(err, detect.ErrUnsupported) {
				continue // this kernel has no idmapped ext4
			}
			if !errors.Is(err, want) {
				t.Errorf("%s, %q on %s: %v, want %v", backend, tt.source, tt.target, err, want)
			}
			if err == nil {
				var st unix.Stat_t
				if err := unix.Stat(dir+"/"+tt.target, &st); err != nil || st.Mode&unix.S_IFMT == unix.S_IFREG {
					t.Errorf("%s: mode %o, %v", tt.source, st.Mode, err)
				}
				if tt.source == "null" {
					if text, err := os.ReadFile(dir + "/" + tt.target); len(text) > 0 || err != nil {
						t.Errorf("read a device: %q, %v", text, err)
					}
				}
				if err := idmount.Unmount(dir+"/"+tt.target, false); err != nil {
					t.Error(err)
				}
			}
		}
	}
}
