package idmount_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/detect"
	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/test/testenv"
)

// shell runs a script in which $IDMOUNT, $SOURCE and $TARGET are set, and decodes
// the result of its "idmount mount --json". The mount ends with the test.
func shell(t *testing.T, script, source, target string, more ...string) *idmount.Mounted {
	t.Helper()
	m, err := tryShell(t, script, source, target, more...)
	if err != nil {
		skipUnsupported(t, err.Error())
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, at := range mountpoints(t) {
			if at == target {
				if err := idmount.Unmount(target, false); err != nil {
					t.Error(err)
				}
			}
		}
		testenv.WaitFor(t, "the server runs", func() bool { return ended(m.PID) })
	})
	return m
}

// skipUnsupported skips the test if the command has said that the kernel lacks the
// backend.
func skipUnsupported(t *testing.T, stderr string) {
	t.Helper()
	if strings.Contains(stderr, detect.ErrUnsupported.Error()) {
		testenv.Skip(t, testenv.NeedKernel, stderr)
	}
}

func tryShell(t *testing.T, script, source, target string, more ...string) (*idmount.Mounted, error) {
	t.Helper()
	cmd := exec.Command("bash", "-c", "set -e; "+script)
	cmd.Env = append(os.Environ(), "IDMOUNT="+testenv.Binary(t), "SOURCE="+source, "TARGET="+target)
	cmd.Env = append(cmd.Env, more...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, stderr.String())
	}
	m := new(idmount.Mounted)
	if err := json.Unmarshal(out, m); err != nil {
		return nil, fmt.Errorf("%q: %w\n%s", out, err, stderr.String())
	}
	return m, nil
}

// ended reports whether a process has ended, reaped or not.
func ended(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(text), ") Z ")
}

// status returns the fields of a file of /proc/PID that has "name: value" lines.
func status(t *testing.T, pid int, file string) map[string]string {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fields := map[string]string{}
	for s := bufio.NewScanner(f); s.Scan(); {
		name, value, _ := strings.Cut(s.Text(), ":")
		fields[name] = strings.TrimSpace(value)
	}
	return fields
}

// What the starter is, has open and is limited by is none of the server's business.
func TestServerInheritsNothing(t *testing.T) {
	testenv.RequireRoot(t)
	source, target := testenv.Source(t, "ext4"), testenv.Dir(t)
	other := testenv.Source(t, "tmpfs") // unmounted at the end: nothing may be in it
	m := shell(t, `
		cd `+other+`; exec 7<. 8>pipe 9>lock; flock 9; umask 077; export SECRET=1
		trap '' TERM INT USR1
		ulimit -S -n 64; ulimit -S -f 1; ulimit -S -t 5
		exec nice -n 7 ionice -c 3 chrt -b 0 taskset -c 0 setarch -R setpriv --groups 4,5 \
			"$IDMOUNT" mount --json --backend translate --map b:0:0:65536 "$SOURCE" "$TARGET"`, source, target)

	lock, err := os.Open(other + "/lock")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Errorf("the starter's lock: %v", err)
	}
	lock.Close()
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", m.PID))
	if err != nil || len(fds) < 4 {
		t.Fatalf("descriptors %q, %v", fds, err)
	}
	for _, fd := range fds {
		if to, _ := os.Readlink(fd); strings.HasPrefix(to, other) || strings.HasPrefix(to, "mnt:") {
			t.Errorf("descriptor %s is open: %s", filepath.Base(fd), to)
		}
	}
	own := status(t, os.Getpid(), "status")
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", m.PID))
	if err != nil {
		t.Fatal(err)
	}
	all := false // a thread may choose a processor by itself
	for _, thread := range threads {
		tid, _ := strconv.Atoi(filepath.Base(thread))
		all = all || status(t, tid, "status")["Cpus_allowed_list"] == own["Cpus_allowed_list"]
		attr, err := unix.SchedGetAttr(tid, 0)
		if err != nil || attr.Nice != 0 || attr.Policy != 0 {
			t.Errorf("scheduling %+v, %v", attr, err)
		}
		const whoProcess = 1
		if prio, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, whoProcess, uintptr(tid), 0); errno != 0 || prio>>13 != 0 && prio>>13 != 2 {
			t.Errorf("I/O priority %#x, %v", prio, errno)
		}
	}
	if !all {
		t.Errorf("no thread has the processors %q", own["Cpus_allowed_list"])
	}
	got := status(t, m.PID, "status")
	for name, want := range map[string]string{
		"Umask": "0000", "Groups": "", "CapInh": "0000000000000000", "CapAmb": "0000000000000000", "CapBnd": got["CapPrm"],
	} {
		if got[name] != want {
			t.Errorf("%s is %s, want %s", name, got[name], want)
		}
	}
	if ignored, err := strconv.ParseUint(got["SigIgn"], 16, 64); err != nil || ignored&(1<<(unix.SIGTERM-1)|1<<(unix.SIGINT-1)) != 0 {
		t.Errorf("it ignores %s", got["SigIgn"])
	}
	for file, want := range map[string]string{"environ": "", "personality": "00000000\n"} {
		if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", m.PID, file)); err != nil || string(text) != want && !strings.HasPrefix(string(text), "GODEBUG=") {
			t.Errorf("%s is %q, %v; want %q", file, text, err, want)
		}
	}
	if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", m.PID)); err != nil || cwd != "/" {
		t.Errorf("the working directory is %q, %v", cwd, err)
	}
	for _, limit := range []int{unix.RLIMIT_NOFILE, unix.RLIMIT_FSIZE, unix.RLIMIT_CPU} {
		var is unix.Rlimit
		if err := unix.Prlimit(m.PID, limit, nil, &is); err != nil || is.Cur != is.Max {
			t.Errorf("limit %d: %+v, %v", limit, is, err)
		}
	}
	endDaemon(t, target, m)
}

// A limit of the starter's that can't be raised is refused where it would break
// writes of others or end the server, and told where it may be met.
func TestServerOfLimitedStarter(t *testing.T) {
	testenv.RequireRoot(t)
	source := testenv.Source(t, "ext4")
	const mount = `exec "$IDMOUNT" mount --json --map b:0:0:65536 --backend translate `
	// The bounding set of what is executed: else it could raise its limits.
	const limited = `exec setpriv --bounding-set=-sys_resource --inh-caps=-sys_resource bash -c '`
	for _, test := range []struct{ name, script, refused, warned string }{
		{"file size", limited + `ulimit -f 1; ` + mount + `"$SOURCE" "$TARGET"'`, "file size (ulimit -f) is 1024", ""},
		{"read-only", limited + `ulimit -f 1; ` + mount + `-o ro "$SOURCE" "$TARGET"'`, "", ""},
		{"CPU time", limited + `ulimit -t 1000; ` + mount + `"$SOURCE" "$TARGET"'`, "CPU time (ulimit -t) is 1000", ""},
		{"open files", limited + `ulimit -n 200; ` + mount + `"$SOURCE" "$TARGET"'`, "", "open files (ulimit -n) is 200"},
		{"soft", limited + `ulimit -S -f 1; ` + mount + `--cache exclusive "$SOURCE" "$TARGET"'`, "", ""},
		// Set without CAP_SYS_RESOURCE, it can be lowered without it.
		{"OOM score", limited + `echo 500 >/proc/self/oom_score_adj; ` + mount + `"$SOURCE" "$TARGET"'`, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			target := testenv.Dir(t)
			m, err := tryShell(t, test.script, source, target)
			if test.refused != "" {
				if err == nil || !strings.Contains(err.Error(), test.refused) {
					t.Errorf("error %v, want one with %q", err, test.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := idmount.Unmount(target, false); err != nil {
					t.Error(err)
				}
			}()
			if got := strings.Join(m.Warnings, "\n"); !strings.Contains(got, test.warned) || test.warned == "" && got != "" {
				t.Errorf("warnings %q, want %q", got, test.warned)
			}
			if test.name != "read-only" {
				if err := os.WriteFile(target+"/large", make([]byte, 1<<20), 0o644); err != nil {
					t.Error(err)
				}
			}
			if score, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", m.PID)); err != nil || strings.TrimSpace(string(score)) != "0" && score[0] != '-' {
				t.Errorf("OOM score %s, %v", score, err)
			}
		})
	}
}

// A server finds its mount whatever its name is by now.
func TestServerEndsWhereItsMountIs(t *testing.T) {
	testenv.RequireRoot(t)
	for _, backend := range []idmount.Backend{idmount.Relay, idmount.Translate} {
		for _, test := range []struct {
			name string
			move func(t *testing.T, dir, target string)
		}{
			{"there", func(*testing.T, string, string) {}},
			{"moved", func(t *testing.T, dir, target string) {
				if err := os.Mkdir(dir+"/new", 0o755); err != nil {
					t.Fatal(err)
				}
				if err := unix.Mount(target, dir+"/new", "", unix.MS_MOVE, ""); err != nil {
					t.Fatal(err)
				}
			}},
			{"renamed", func(t *testing.T, dir, target string) {
				if err := os.Rename(filepath.Dir(target), dir+"/renamed"); err != nil {
					t.Fatal(err)
				}
				// Another mount at its old name, which is to stay.
				testenv.Mount(t, "tmpfs", target, "")
			}},
		} {
			t.Run(fmt.Sprintf("%s/%s", backend, test.name), func(t *testing.T) {
				dir := testenv.Source(t, "tmpfs")
				target := dir + "/caf\xe9/\xff target"
				if err := os.MkdirAll(target, 0o755); err != nil {
					t.Fatal(err)
				}
				m := shell(t, `exec "$IDMOUNT" mount --json --map b:0:0:65536 --backend `+string(backend)+` "$SOURCE" "$TARGET"`, testenv.Source(t, "ext4"), target)
				if m.Target != target {
					t.Errorf("the target is %q, want %q", m.Target, target)
				}
				test.move(t, dir, target)
				mounted := len(mountpoints(t)) - 1
				if err := unix.Kill(m.PID, unix.SIGTERM); err != nil {
					t.Fatal(err)
				}
				testenv.WaitFor(t, "the server runs", func() bool { return ended(m.PID) })
				if got := len(mountpoints(t)); got != mounted {
					t.Errorf("%d mounts, want %d", got, mounted)
				}
			})
		}
	}
}

// Open files are served to the end, unless a second signal asks for that at once.
func TestSecondSignalEndsServer(t *testing.T) {
	testenv.RequireRoot(t)
	target, m := mount(t, testenv.Source(t, "ext4"), idmount.Options{Map: idmap.Identity(), Backend: idmount.Translate})
	f, err := os.Create(target + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	endDaemon(t, target, m)
	if err := f.Chmod(0o600); err != nil {
		t.Errorf("after the first signal: %v", err)
	}
	if err := unix.Kill(m.PID, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	testenv.WaitFor(t, "the server runs", func() bool { return ended(m.PID) })
	if err := f.Chmod(0o644); err == nil {
		t.Error("after the second: the file is served")
	}
}

// A mount that another one covers when its server is told to end goes after that one.
func TestServerOfCoveredMountEnds(t *testing.T) {
	testenv.RequireRoot(t)
	target, m := mount(t, testenv.Source(t, "ext4"), idmount.Options{Map: idmap.Identity(), Backend: idmount.Translate})
	testenv.Mount(t, "tmpfs", target, "")
	if err := unix.Kill(m.PID, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond) // else the first try may find it uncovered
	if ended(m.PID) {
		t.Error("the server has ended below another mount")
	}
	if err := unix.Unmount(target, 0); err != nil {
		t.Fatal(err)
	}
	testenv.WaitFor(t, "the server runs", func() bool { return ended(m.PID) })
	if slices.Contains(mountpoints(t), target) {
		t.Error("still mounted")
	}
}

// inNamespace starts a process in a mount namespace of its own that mounts and then
// waits for end to be called.
func inNamespace(t *testing.T, script, source, target string) (m *idmount.Mounted, holder int, end func()) {
	t.Helper()
	cmd := exec.Command("unshare", "-m", "bash", "-c", `set -e; `+script+`; exec cat`)
	cmd.Env = append(os.Environ(), "IDMOUNT="+testenv.Binary(t), "SOURCE="+source, "TARGET="+target)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	running := true
	end = func() {
		if running {
			running = false
			in.Close()
			if err := cmd.Wait(); err != nil {
				skipUnsupported(t, stderr.String())
				t.Errorf("%v\n%s", err, stderr.String())
			}
		}
	}
	t.Cleanup(end)
	m = new(idmount.Mounted)
	if err := json.NewDecoder(out).Decode(m); err != nil {
		end() // with its reason, if the kernel lacks the backend
		t.Fatal(err)
	}
	return m, cmd.Process.Pid, end
}

// A mount ends with the last process of its mount namespace, and so does its server;
// source and device are free then.
func TestMountEndsWithItsNamespace(t *testing.T) {
	testenv.RequireRoot(t)
	for _, backend := range []idmount.Backend{idmount.Relay, idmount.Translate} {
		t.Run(string(backend), func(t *testing.T) {
			source, target := testenv.Dir(t), testenv.Dir(t)
			image := filepath.Join(t.TempDir(), "image")
			if err := os.WriteFile(image, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(image, 32<<20); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command("mkfs.ext4", "-qF", image).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			m, _, end := inNamespace(t, `mount -o loop `+image+` "$SOURCE"
				"$IDMOUNT" mount --json --map b:0:0:65536 --backend `+string(backend)+` "$SOURCE" "$TARGET"
				test -d "$TARGET/lost+found"`, source, target)
			if ended(m.PID) {
				t.Fatal("the server has ended")
			}
			end()
			testenv.WaitFor(t, "the server runs", func() bool { return ended(m.PID) })
			testenv.WaitFor(t, "the loop device is in use", func() bool {
				used, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
				return !slices.ContainsFunc(used, func(file string) bool {
					text, _ := os.ReadFile(file)
					return strings.TrimSpace(string(text)) == image
				})
			})
		})
	}
}

// A server that is killed before it has said that the mount is in place leaves none.
// Here it waits for somebody who reads its entry.
func TestKilledServerLeavesNoMount(t *testing.T) {
	testenv.RequireRoot(t)
	source, target := testenv.Source(t, "ext4"), testenv.Dir(t)
	mkdirs(t, source+"/sub")
	testenv.Mount(t, "ramfs", source+"/sub", "")
	for _, options := range []string{"--backend translate", "--backend relay --recursive", "--recursive"} {
		cmd := exec.Command("unshare", "-m", "bash", "-c", `mkdir -p /run/idmount; mount -t tmpfs -o mode=0755 tmpfs /run/idmount
			cd /run/idmount; mkfifo $(printf "0:%d.new " $(seq 4000))
			"$IDMOUNT" mount --map b:0:1000:10 `+options+` "$SOURCE" "$TARGET" & command=$!
			# auto starts a server for one backend after the other
			while kill -0 $command; do
				if grep -qF " $TARGET " /proc/self/mountinfo; then kill -9 $(cat /proc/$command/task/*/children); fi
				sleep 0.01
			done 2>/dev/null
			wait $command && exit 1
			! grep -F " $TARGET " /proc/self/mountinfo`)
		cmd.Env = append(os.Environ(), "IDMOUNT="+testenv.Binary(t), "SOURCE="+source, "TARGET="+target)
		out, err := cmd.CombinedOutput()
		if want := "it ended before the mount was ready"; err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v, %s; want %q and nothing mounted", options, err, out, want)
		}
	}
}

// Without space for its entry, a server leaves no part of one, nor one of an earlier
// mount of the same device.
func TestNoSpaceForState(t *testing.T) {
	testenv.RequireRoot(t)
	m, holder, _ := inNamespace(t, `mkdir -p /run/idmount; mount -t tmpfs -o size=4k,mode=0755 tmpfs /run/idmount
		head -c 4096 /dev/zero >/run/idmount/full
		"$IDMOUNT" mount --json --map b:0:0:1 --backend translate "$SOURCE" "$TARGET"`, testenv.Source(t, "tmpfs"), testenv.Dir(t))
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/root/run/idmount", holder))
	if err != nil || len(entries) != 1 {
		t.Errorf("server %d has left %v, %v", m.PID, entries, err)
	}
}

// In a container, submounts of /dev may be locked, and device nodes mounts of their own.
func TestOwnRootInContainer(t *testing.T) {
	testenv.RequireRoot(t)
	// A new /dev, from the nodes of the old one.
	const dev = `mount -t tmpfs -o mode=0755 tmpfs /mnt; mkdir /mnt/shm; mount -t tmpfs tmpfs /mnt/shm
		for node in null zero random urandom fuse; do : >/mnt/$node; mount --bind /dev/$node /mnt/$node; done
		mount --move /mnt /dev
		`
	// The owner of a user namespace can't take apart what he finds mounted.
	const locked = `unshare -Urm --propagation unchanged bash -c '"$IDMOUNT" mount --json --map b:0:0:1 --backend translate "$SOURCE" "$TARGET"; exec cat'`
	for name, script := range map[string]string{
		"nodes":          dev + `"$IDMOUNT" mount --json --map b:0:0:1 --backend translate "$SOURCE" "$TARGET"`,
		"user namespace": locked,
		"both":           dev + locked,
	} {
		t.Run(name, func(t *testing.T) {
			m, holder, end := inNamespace(t, script, testenv.Source(t, "tmpfs"), testenv.Dir(t))
			for _, w := range m.Warnings { // fanotify takes the initial user namespace
				if !strings.HasPrefix(w, "nothing is cached") {
					t.Errorf("warning %q", w)
				}
			}
			if ours, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", m.PID)); ours == "" {
				t.Error("the server has ended")
			} else if its, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", holder)); its == ours {
				t.Errorf("the server is in the namespace %s of the mount", its)
			}
			for path, want := range map[string]uint64{
				"fd/0": unix.Mkdev(1, 3), "root/dev/fuse": unix.Mkdev(10, 229),
			} {
				var st unix.Stat_t
				err := unix.Stat(fmt.Sprintf("/proc/%d/%s", m.PID, path), &st)
				if err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != want {
					t.Errorf("%s: mode %o, device %#x, %v; want %#x", path, st.Mode, st.Rdev, err, want)
				}
			}
			end()
			testenv.WaitFor(t, "the server runs", func() bool { return ended(m.PID) })
		})
	}
}

// A server that is told to end unmounts in a namespace that it is not in.
func TestServerEndsInOtherNamespace(t *testing.T) {
	testenv.RequireRoot(t)
	source, target := testenv.Source(t, "ext4"), testenv.Dir(t)
	m, holder, _ := inNamespace(t, `"$IDMOUNT" mount --json --map b:0:0:65536 --backend translate "$SOURCE" "$TARGET"`, source, target)
	if ours, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", m.PID)); err != nil {
		t.Fatal(err)
	} else if its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", holder)); err != nil || its == ours {
		t.Fatalf("the server is in %s, the mount in %s, %v", ours, its, err)
	}
	all, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", m.PID))
	if err != nil || strings.Count(string(all), "\n") > 6 {
		t.Errorf("the server's mounts, %v:\n%s", err, all)
	}
	if err := unix.Kill(m.PID, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	testenv.WaitFor(t, "the server runs", func() bool { return ended(m.PID) })
	table, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", holder))
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	left, err := mountinfo.GetMountsFromReader(table, mountinfo.FSTypeFilter("fuse.idmount"))
	if err != nil || len(left) != 0 {
		t.Errorf("still mounted: %v, %v", left, err)
	}
}

// The mount table shows the whole path of the source.
func TestLongSource(t *testing.T) {
	testenv.RequireRoot(t)
	for _, backend := range []idmount.Backend{idmount.Relay, idmount.Translate} {
		for _, length := range []int{255, 256, 4095} {
			t.Run(fmt.Sprintf("%s/%d", backend, length), func(t *testing.T) {
				source := testenv.Source(t, "tmpfs")
				for len(source) < length {
					rest := length - len(source) - 1
					if rest > 201 {
						rest = 200
					}
					source += "/" + strings.Repeat("d", rest)
				}
				if err := os.MkdirAll(source, 0o755); err != nil {
					t.Fatal(err)
				}
				target, _ := mount(t, source, idmount.Options{Map: parse(t, "b:0:100000:65536"), Backend: backend, MountOptions: "nodev,noatime"})
				all, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(target))
				if err != nil || len(all) != 1 {
					t.Fatalf("mount table %v, %v", all, err)
				}
				if m := all[0]; m.Source != source || m.Root != "/view" || !strings.Contains(m.Options, "nodev") || !strings.Contains(m.Options, "noatime") {
					t.Errorf("mount table has %q at %q, %s; want %q", m.Source, m.Root, m.Options, source)
				}
				if got := owner(t, target); got != "100000:100000" {
					t.Errorf("owner %s", got)
				}
			})
		}
	}
}

// refuse has a system call of the calling thread, and of what it starts, fail with
// errno; if flags are not 0, only when its fourth argument is flags. The thread is
// locked until the test ends.
func refuse(t *testing.T, errno unix.Errno, flags uint32, calls ...uint32) {
	t.Helper()
	runtime.LockOSThread() // never unlocked
	op := func(code uint16, k uint32, jt, jf uint8) unix.SockFilter {
		return unix.SockFilter{Code: code, Jt: jt, Jf: jf, K: k}
	}
	const load, equal, ret = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	const nr, arg3 = 0, 40 // of struct seccomp_data
	var program []unix.SockFilter
	for _, call := range calls {
		program = append(program, op(load, nr, 0, 0))
		if flags != 0 {
			program = append(program, op(equal, call, 0, 3), op(load, arg3, 0, 0), op(equal, flags, 0, 1))
		} else {
			program = append(program, op(equal, call, 0, 1))
		}
		program = append(program, op(ret, unix.SECCOMP_RET_ERRNO|uint32(errno), 0, 0))
	}
	program = append(program, op(ret, unix.SECCOMP_RET_ALLOW, 0, 0))
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&fprog)), 0, 0); err != nil {
		t.Fatal(err)
	}
}

// A mount that can't be made as it was asked for is not made.
func TestPropagationFails(t *testing.T) {
	testenv.RequireRoot(t)
	source, target := testenv.Source(t, "ext4"), testenv.Dir(t)
	refuse(t, unix.EPERM, unix.MS_SHARED, unix.SYS_MOUNT)
	before := mountpoints(t)
	_, err := tryShell(t, `exec "$IDMOUNT" mount --json --map b:0:0:65536 --backend translate -o shared "$SOURCE" "$TARGET"`, source, target)
	if err == nil || !strings.Contains(err.Error(), "propagation") {
		t.Errorf("error %v, want one of the propagation", err)
	}
	if after := mountpoints(t); !slices.Equal(before, after) {
		t.Errorf("mounts before %q, after %q", before, after)
	}
}

// Kernels before 5.2 have none of the newer mount calls.
func TestMountInPlace(t *testing.T) {
	testenv.RequireRoot(t)
	for _, propagation := range []string{"shared", "private", "slave", "unbindable"} {
		t.Run(propagation, func(t *testing.T) {
			source, target := testenv.Source(t, "ext4"), testenv.Dir(t)
			write(t, source+"/file", "text")
			refuse(t, unix.ENOSYS, 0, unix.SYS_FSOPEN, unix.SYS_FSMOUNT, unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT,
				unix.SYS_MOUNT_SETATTR, unix.SYS_OPEN_TREE_ATTR)
			m, err := tryShell(t, `exec "$IDMOUNT" mount --json --map b:0:100000:65536 -o nodev,`+propagation+` "$SOURCE" "$TARGET"`, source, target)
			if err != nil {
				t.Fatal(err)
			}
			all, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(target))
			if err != nil || len(all) != 1 || m.Backend != idmount.Translate {
				t.Fatalf("backend %s, mount table %v, %v", m.Backend, all, err)
			}
			want := map[string]string{"shared": "shared:", "unbindable": "unbindable"}[propagation]
			if got := all[0].Optional; !strings.HasPrefix(got, want) || want == "" && got != "" {
				t.Errorf("mount table has %q, want %q", got, want)
			}
			if got := owner(t, target+"/file"); got != "100000:100000" {
				t.Errorf("owner %s", got)
			}
			if err := unix.Kill(m.PID, unix.SIGTERM); err != nil {
				t.Fatal(err)
			}
			testenv.WaitFor(t, "the server runs", func() bool { return ended(m.PID) })
			if slices.Contains(mountpoints(t), target) {
				t.Error("still mounted")
			}
		})
	}
}

// A server in the background logs to the journal, each field by itself.
func TestServerLogsToJournal(t *testing.T) {
	testenv.RequireRoot(t)
	const dir = "/run/systemd/journal"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	testenv.Mount(t, "tmpfs", dir, "")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/socket", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	source := testenv.Source(t, "ext4") + "/caf\xe9"
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	target := testenv.Dir(t)
	shell(t, `exec setpriv --bounding-set=-sys_resource --inh-caps=-sys_resource bash -c '
		ulimit -n 200; exec "$IDMOUNT" mount --json --map b:0:0:65536 --backend translate "$SOURCE" "$TARGET"'`, source, target)
	if err := conn.SetReadDeadline(time.Now().Add(testenv.Patience)); err != nil {
		t.Fatal(err)
	}
	var buf [64 << 10]byte
	for {
		n, err := conn.Read(buf[:])
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			continue // somebody has asked whether there is a journal
		}
		fields := strings.Split(strings.TrimSpace(string(buf[:n])), "\n")
		for _, want := range []string{
			"PRIORITY=4", "SYSLOG_IDENTIFIER=idmount", "IDMOUNT_MOUNT=" + target, "IDMOUNT_SOURCE=" + source, "IDMOUNT_BACKEND=translate",
		} {
			if !slices.Contains(fields, want) {
				t.Errorf("the record lacks %q: %q", want, fields)
			}
		}
		if !slices.ContainsFunc(fields, func(f string) bool {
			return strings.HasPrefix(f, "MESSAGE=") && strings.Contains(f, "open files (ulimit -n) is 200")
		}) {
			t.Errorf("the record has another message: %q", fields)
		}
		return
	}
}

// docker is what a container has by default, and CAP_SYS_ADMIN.
const docker = "chown,dac_override,fowner,fsetid,kill,setgid,setuid,setpcap,net_bind_service,net_raw,sys_chroot,mknod,audit_write,setfcap,sys_admin"

// With fewer capabilities, each backend either works or is not chosen.
func TestMountInContainer(t *testing.T) {
	testenv.RequireRoot(t)
	for _, backend := range []idmount.Backend{idmount.Auto, idmount.Native, idmount.Relay, idmount.Translate} {
		sets := []string{docker, strings.ReplaceAll(docker, ",setfcap", "")}
		if backend == idmount.Auto || backend == idmount.Translate {
			sets = append(sets, strings.ReplaceAll(docker, "setuid,setpcap,", "")) // can't give a user namespace its map
		}
		for _, caps := range sets {
			t.Run(fmt.Sprintf("%s/%s", backend, caps), func(t *testing.T) {
				source, target := testenv.Source(t, "ext4"), testenv.Dir(t)
				m := shell(t, `exec setpriv --bounding-set=-all,+`+strings.ReplaceAll(caps, ",", ",+")+` --inh-caps=-all \
					"$IDMOUNT" mount --json --map b:0:100000:65536 --backend `+string(backend)+` "$SOURCE" "$TARGET"`, source, target)
				if got := owner(t, target); got != "100000:100000" {
					t.Errorf("backend %s: owner %s", m.Backend, got)
				}
			})
		}
	}
}

// Where the chosen backend fails after all, auto takes the next.
func TestAutoTakesNextBackend(t *testing.T) {
	testenv.RequireRoot(t)
	source, target := testenv.Source(t, "ramfs"), testenv.Dir(t)
	daemon := filepath.Join(t.TempDir(), "daemon")
	script := `#!/bin/sh
		if [ ! -e "$0.tried" ]; then : >"$0.tried"; exit 3; fi
		exec ` + testenv.Binary(t) + ` "$@"`
	if err := os.WriteFile(daemon, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	m, err := idmount.Mount(t.Context(), source, target, idmount.Options{Map: parse(t, "b:0:100000:65536"), Daemon: daemon})
	if err != nil {
		t.Fatal(err)
	}
	defer idmount.Unmount(target, false)
	if m.Backend != idmount.Translate || !strings.Contains(m.Reason, "relay: failed: ") || !strings.Contains(m.Reason, "exit status 3") {
		t.Errorf("backend %s, reason %q", m.Backend, m.Reason)
	}
	if got := owner(t, target); got != "100000:100000" {
		t.Errorf("owner %s", got)
	}
}
