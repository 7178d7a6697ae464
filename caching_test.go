package idmount_test

import (
	"encoding/json"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/detect"
	"github.com/idmount/idmount/fusefs"
	"github.com/idmount/idmount/internal/test/testenv"
)

// What a mount says of its cache is what the server does, and detect knows it before.
func TestMountSaysWhatIsCached(t *testing.T) {
	for _, c := range []struct {
		fstype        string
		asked, cached string
		reason        error
	}{
		{"ext4", "coherent", "coherent", nil},
		{"tmpfs", "coherent", "coherent", nil},
		{"overlay-nfs_export", "coherent", "coherent", nil},
		{"overlay", "coherent", "coherent", nil},
		{"ramfs", "coherent", "coherent", nil},
		{"fuse", "coherent", "none", fusefs.ErrShared},
		{"overlay", "ttl=2s", "ttl=2s", nil},
		{"overlay", "exclusive", "exclusive", nil},
		{"ext4", "none", "none", nil},
	} {
		t.Run(c.fstype+"/"+c.asked, func(t *testing.T) {
			source := testenv.Source(t, c.fstype)
			write(t, source+"/f", "")
			cache, err := idmount.ParseCache(c.asked)
			if err != nil {
				t.Fatal(err)
			}
			report, err := detect.Probe(t.Context(), source, detect.Options{})
			if err != nil {
				t.Fatal(err)
			}
			want, why := c.cached, ""
			switch {
			case c.reason != nil:
				why = c.reason.Error()
			case c.asked == "coherent" && report.CoherentCache.Verdict != detect.Yes:
				// This kernel can't.
				want, why = "none", "HAS_EXPIRE_ONLY"
			}
			if yes := report.CoherentCache.Verdict == detect.Yes; c.asked == "coherent" && yes != (want == "coherent") {
				t.Errorf("detect says of a coherent cache: %v (%s), and the cache is to be %s", report.CoherentCache.Verdict, report.CoherentCache.Reason, want)
			}
			_, m := mount(t, source, idmount.Options{Map: parse(t, "b:0:0:65536"), Backend: idmount.Translate, Cache: cache})
			if m.Cache != want || !strings.Contains(m.CacheReason, why) || (why == "") != (m.CacheReason == "") {
				t.Errorf("cache %q (%q), want %q (%q)", m.Cache, m.CacheReason, want, why)
			}
			if len(m.Warnings) > 0 {
				t.Errorf("warnings %q for what no one can change", m.Warnings)
			}
		})
	}
}

// strangers are a user of whom this machine has no processes but this test's.
const strangers = 876_543

// A user may have fs.fanotify.max_user_groups fanotify groups. The mount after those
// says that it caches nothing, and why, and so does detect.
func TestMountSaysThatNoWatchIsLeft(t *testing.T) {
	source := testenv.Source(t, "ext4")
	write(t, source+"/f", "")
	takeFanotifyGroups(t, strangers)
	run := func(args ...string) (string, string) {
		var stderr strings.Builder
		cmd := exec.Command(testenv.Binary(t), args...)
		cmd.Stderr = &stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: strangers, Gid: strangers}, AmbientCaps: allCaps(t)}
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v: %s", args, err, stderr.String())
		}
		return string(out), stderr.String()
	}

	target := testenv.Dir(t)
	out, stderr := run("mount", "--json", "--backend", "translate", "--map", "b:0:0:65536", source, target)
	defer run("umount", target)
	var m idmount.Mounted
	if err := json.Unmarshal([]byte(out), &m); err != nil {
		t.Fatal(err)
	}
	const limit = "fs.fanotify.max_user_groups"
	if m.Cache != "none" || !strings.Contains(m.CacheReason, limit) || !strings.Contains(strings.Join(m.Warnings, "\n"), limit) {
		t.Errorf("mount says %+v, want cache none, and %s as the reason and in a warning", m, limit)
	}
	if !strings.Contains(stderr, limit) {
		t.Errorf("standard error %q, want a warning with %s", stderr, limit)
	}
	if out, _ := run("detect", source); !strings.Contains(out, limit) {
		t.Errorf("detect does not say why nothing is cached: %s", out)
	}
}

// takeFanotifyGroups takes all that a user may have until the test ends.
func takeFanotifyGroups(t *testing.T, uid int) {
	t.Helper()
	var groups []int
	t.Cleanup(func() {
		for _, fd := range groups {
			unix.Close(fd)
		}
	})
	done := make(chan unix.Errno)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its ids
		if _, _, errno := unix.Syscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
			done <- errno
			return
		}
		for {
			fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_REPORT_FID, unix.O_RDONLY)
			if err != nil {
				done <- err.(unix.Errno)
				return
			}
			groups = append(groups, fd)
		}
	}()
	switch errno := <-done; errno {
	case unix.EMFILE:
	case unix.EPERM:
		testenv.Skip(t, testenv.NeedKernel, "fanotify for users, Linux 5.13")
	default:
		t.Fatal("fanotify_init:", errno)
	}
}

// allCaps are those that this process has.
func allCaps(t *testing.T) (caps []uintptr) {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	for c := range uintptr(64) {
		if data[c/32].Permitted&(1<<(c%32)) != 0 {
			caps = append(caps, c)
		}
	}
	return caps
}
