package conformance

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/internal/test/testenv"
)

// lockScripts are played by processes that use the mount (m1, m2, m3) and
// processes that use the source (s1, s2). What each call returns has to be the
// same whatever the mount is.
//
//	WHO open NAME (r|w|rw)    the descriptor is called NAME
//	WHO close NAME
//	WHO (posix|posixw|ofd|ofdw) NAME (r|w|u) START LENGTH
//	WHO (flock|flockw) NAME (r|w|u)
//	WHO get NAME (r|w) START LENGTH    and getofd: who is in the way, and where
//	WHO spawn NAME            a child that inherits the descriptor
//	WHO reap                  the end of the child
//	WHO signal                interrupts WHO's call
//	WHO die                   the end of WHO
//
// WHO& goes on without waiting for the call, WHO join has its result. WHO~ tries
// again until there is another result than EAGAIN: the kernel does not wait for
// the end of an open file to be told to a FUSE server.
var lockScripts = map[string]string{
	"posix-shared": `
		m1 open a rw; s1 open b rw; m2 open c rw
		m1 posix a w 0 10; s1 posix b w 5 1; m2 posix c r 9 1; m2 posix c r 10 1
		s1 posix b r 10 5; s1 posix b w 20 5; m1 posix a r 20 1; m1 posix a r 10 1
		m2 get c w 0 0; m2 get c w 20 1; m2 get c r 30 1
		m1 posix a u 0 5; s1 posix b w 0 5; s1 posix b w 0 6
		m1 posix a r 5 5; s1 posix b r 5 5; m1 posix a w 5 5
		m1 close a; m2 close c; s1~ posix b w 0 0`,
	"posix-close-any": `
		m1 open a rw; s1 open b rw; m1 posix a w 0 0; s1 posix b r 0 0
		m1 open again r; m1 close again; s1 posix b r 0 0; m1 posix a w 0 0; s1 posix b u 0 0; m1 posix a w 0 0`,
	"posix-close-other": `
		m1 open a rw; m1 open b rw; s1 open d rw; m1 posix a w 0 0; s1 posix d w 0 0; m1 close b; s1~ posix d w 0 0`,
	"posix-close-other-mount": `
		m1 open a rw; m1 open b r; m2 open c rw; m1 posix a w 0 0; m2 posix c r 0 0; m1 close b; m2 posix c w 0 0`,
	"posix-close-other-again": `
		m1 open a rw; m1 open b rw; m1 open e r; m1 posix a w 0 10; m1 close b; m1 posix a w 20 5; m2 open c rw; s1 open d rw
		m2 posix c w 0 10; s1 posix d w 10 5; s1 posix d w 20 1; m1 close e; s1~ posix d w 20 1`,
	"posix-close-other-inherited": `
		m1 open a rw; m1 open b rw; m1 spawn b; m1 close b; m1 posix a w 0 0; m1 reap
		m2 open c rw; s1 open d rw; m2 posix c w 0 0; s1 posix d w 0 0`,
	"posix-inherited": `
		m1 open a rw; m1 posix a w 0 0; m1 spawn a; s1 open b rw; s1 posix b w 0 0
		m1 close a; s1~ posix b w 0 0; m2 open c rw; m2 posix c w 0 0; s1 posix b u 0 0; m2 posix c w 0 0; m1 reap`,
	"posix-inherited-mount": `
		m1 open a rw; m1 posix a w 0 0; m1 spawn a; m2 open c rw; m2 posix c w 0 0
		m1 close a; m2 posix c w 0 0; m1 reap`,
	"posix-wait": `
		m1 open a rw; s1 open b rw; s1 posix b w 0 0; m1& posixw a w 3 4; s1 posix b u 0 0; m1 join
		s1& posixw b w 0 0; m1 posix a u 3 4; s1 join; m2 open c rw; m2& posixw c r 0 0; m1& posixw a r 0 0
		s1 posix b u 0 0; m1 join; m2 join`,
	"posix-wait-close": `
		m1 open a rw; m2 open b rw; m1 posix a w 0 0; m2& posixw b w 0 0; m1 close a; m2 join`,
	"posix-interrupt": `
		m1 open a rw; s1 open b rw; s1 posix b w 0 0; m1& posixw a w 0 0; m1 signal; m1 join
		s1 posix b u 0 0; m1 posix a w 0 0; m2 open c rw; m2& posixw c w 0 0; m2 signal; m2 join`,
	"posix-die": `
		m1 open a rw; m1 posix a w 0 0; m2 open b rw; m2& posixw b w 0 0; m2 die
		m1 posix a u 0 0; s1 open c rw; s1~ posix c w 0 0; s1 posix c u 0 0
		m1 posix a w 0 0; m1 die; s1~ posix c w 0 0`,
	"posix-deadlock": `
		m1 open a rw; m2 open b rw; m1 posix a w 0 1; m2 posix b w 1 1
		m1& posixw a w 1 1; m2 posixw b w 0 1; m2 posix b u 1 1; m1 join`,
	"posix-read-only": `
		m1 open a r; m1 posix a w 0 0; m1 posix a r 0 0; s1 open b r; s1 posix b r 0 0; m2 open c w
		m2 posix c r 0 0; m2 posix c w 0 0; m1 open more rw; m1 posix more r 5 1; s1 posix b u 0 0; m1 posix more w 0 0; s1 posix b r 0 0`,
	"ofd": `
		m1 open a rw; m1 open b rw; s1 open c rw; m1 ofd a w 0 10; m1 ofd b w 0 10; s1 ofd c r 0 10; s1 posix c r 0 10
		m1 getofd b w 0 0; m1 posix b w 0 10; m1 ofd a u 0 5; m1 ofd b r 0 5; s1 ofd c r 0 5; s1 ofd c r 0 6
		m2 open d rw; m2& ofdw d w 0 10; s1 ofd c u 0 0; m1 close b; m1 close a; m2 join; m2 close d; s1~ ofd c w 0 0`,
	"ofd-inherited": `
		m1 open a rw; m1 ofd a w 0 0; m1 spawn a; m1 close a; m2 open b rw; m2 ofd b w 0 0; s1 open c rw; s1 ofd c w 0 0
		m1 reap; m2~ ofd b w 0 0`,
	"flock": `
		m1 open a r; m2 open b rw; s1 open c r; m1 flock a r; m2 flock b r; s1 flock c w; s1 flock c r; m2 flock b w
		m2 flock b u; m1 flock a u; s1 flock c w; m1 flock a r; m1& flockw a w; s1 flock c u; m1 join; s1 flock c r
		m1 close a; s1~ flock c w; m2& flockw b w; m2 signal; m2 join; s1 close c; m2 flock b w`,
	"flock-inherited": `
		m1 open a rw; m1 flock a w; m1 spawn a; m1 close a; s1 open b rw; s1 flock b w; m2 open c rw; m2 flock c r
		m1 reap; m2~ flock c w; s1 flock b r`,
	"flock-and-posix": `
		m1 open a rw; m2 open b rw; s1 open c rw; m1 flock a w; m2 posix b w 0 0; s1 flock c r; s1 posix c r 0 0`,
}

func TestLocks(t *testing.T) {
	testenv.RequireRoot(t)
	if optionsFromEnv(t).Cache.Mode == idmount.CacheExclusive {
		return // nobody else is there to lock anything
	}
	p := planFromEnv(t)
	for _, fstype := range []string{"ext4", "tmpfs"} {
		t.Run(fstype, func(t *testing.T) {
			source := testenv.Source(t, fstype)
			native := MountOracle(t, source, Maps[0])
			want := map[string][]string{}
			for _, name := range sortedKeys(lockScripts) {
				want[name] = playLocks(t, lockScripts[name], native, source)
			}
			for _, backend := range p.backends {
				t.Run(backend, func(t *testing.T) {
					mnt := MountBackend(t, source, Maps[0], backend)
					for _, name := range sortedKeys(lockScripts) {
						t.Run(name, func(t *testing.T) {
							got := playLocks(t, lockScripts[name], mnt, source)
							if d := cmp.Diff(want[name], got); d != "" {
								t.Errorf("-native +%s:\n%s", backend, d)
							}
						})
					}
				})
			}
		})
	}
}

// TestManyLockWaiters: waiting takes no thread of the server, so that others,
// the one who unlocks among them, are served meanwhile.
func TestManyLockWaiters(t *testing.T) {
	testenv.RequireRoot(t)
	source := testenv.Source(t, "tmpfs")
	for _, backend := range planFromEnv(t).backends {
		t.Run(backend, func(t *testing.T) {
			mnt := MountBackend(t, source, Maps[0], backend)
			path := filepath.Join(mnt, "f")
			if err := os.WriteFile(filepath.Join(source, "f"), nil, 0o666); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(filepath.Join(source, "f"), 1000, 1000); err != nil {
				t.Fatal(err)
			}
			open := func() *os.File {
				f, err := os.OpenFile(path, os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { f.Close() })
				return f
			}
			holder := open()
			lock := unix.Flock_t{Type: unix.F_WRLCK}
			if err := unix.FcntlFlock(holder.Fd(), unix.F_OFD_SETLK, &lock); err != nil {
				t.Fatal(err)
			}
			const waiters = 200
			done := make(chan error, waiters)
			for range waiters {
				f := open()
				go func() {
					lock := unix.Flock_t{Type: unix.F_WRLCK}
					err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLKW, &lock)
					lock.Type = unix.F_UNLCK
					done <- errors.Join(err, unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock))
				}()
			}
			select {
			case err := <-done:
				t.Fatalf("a waiter did not wait: %v", err)
			case <-time.After(200 * time.Millisecond):
			}
			var st unix.Stat_t
			if err := unix.Stat(path, &st); err != nil {
				t.Fatal(err)
			}
			holder.Close()
			for range waiters {
				if err := <-done; err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func sortedKeys(m map[string]string) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// playLocks plays a script on a fresh file and returns each line with its result.
func playLocks(t *testing.T, script, mnt, source string) []string {
	t.Helper()
	name := fmt.Sprintf("locks-%d", time.Now().UnixNano())
	file := filepath.Join(source, name)
	if err := os.WriteFile(file, []byte("data"), 0o666); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(file)
	if err := os.Chown(file, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	type actor struct {
		agent    *testenv.Agent
		pid, tid int
		pending  chan string
	}
	actors := map[string]*actor{}
	byPID := map[string]string{"0": "nobody", "-1": "nobody"}
	get := func(who string) *actor {
		a := actors[who]
		if a == nil {
			dir := mnt
			if who[0] == 's' {
				dir = source
			}
			a = &actor{agent: testenv.StartAgent(t, testenv.Caller{Caps: testenv.AllCaps})}
			var ids [2]int
			if err := a.agent.Call("locks", []string{"start", filepath.Join(dir, name)}, &ids); err != nil {
				t.Fatal(err)
			}
			a.pid, a.tid = ids[0], ids[1]
			byPID[strconv.Itoa(a.pid)] = who
			actors[who] = a
		}
		return a
	}
	call := func(a *actor, words []string) string {
		var out string
		if err := a.agent.Call("locks", words, &out); err != nil {
			return "error: " + err.Error()
		}
		if f := strings.Fields(out); len(f) > 1 { // the last one is a process
			f[len(f)-1] = byPID[f[len(f)-1]]
			out = strings.Join(f, " ")
		}
		return out
	}
	var log []string
	for _, line := range strings.FieldsFunc(script, func(c rune) bool { return c == ';' || c == '\n' }) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		who, mode := strings.TrimRight(words[0], "&~"), words[0][len(words[0])-1]
		a := get(who)
		words = words[1:]
		result := ""
		switch {
		case words[0] == "join":
			result = <-a.pending
		case words[0] == "signal":
			if err := unix.Tgkill(a.pid, a.tid, unix.SIGUSR2); err != nil {
				t.Fatal(err)
			}
		case words[0] == "die":
			if err := unix.Kill(a.pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			for unix.Kill(a.pid, 0) == nil && !zombie(a.pid) {
				time.Sleep(time.Millisecond)
			}
		case mode == '&':
			a.pending = make(chan string, 1)
			go func() { a.pending <- call(a, words) }()
			result = waiting(a.pid, a.tid, a.pending)
		case mode == '~':
			testenv.Becomes(func() bool {
				result = call(a, words)
				return result != "EAGAIN"
			})
		default:
			result = call(a, words)
		}
		log = append(log, strings.TrimSpace(line)+": "+result)
	}
	return log
}

// waiting is what comes of a call that may wait: its result, or "waits" once its
// thread has been in fcntl(2) or flock(2) for a while. Before that, a signal would
// end no call.
func waiting(pid, tid int, pending chan string) string {
	file := fmt.Sprintf("/proc/%d/task/%d/syscall", pid, tid)
	inside := 0
	for end := time.Now().Add(testenv.Patience); time.Now().Before(end); {
		select {
		case got := <-pending:
			return "at once: " + got
		case <-time.After(10 * time.Millisecond):
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err.Error()
		}
		nr, _, _ := strings.Cut(string(text), " ")
		if nr != strconv.Itoa(unix.SYS_FCNTL) && nr != strconv.Itoa(unix.SYS_FLOCK) {
			inside = 0
		} else if inside++; inside == 5 {
			return "waits"
		}
	}
	return "never came to wait"
}

func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

func init() { testenv.Handle("locks", lockAgent) }

var lockAgentState struct {
	path  string
	files map[string]*os.File
	child *exec.Cmd
}

// lockAgent is one call of a script, in the process of who makes it.
func lockAgent(arg json.RawMessage) (any, error) {
	var words []string
	if err := json.Unmarshal(arg, &words); err != nil {
		return nil, err
	}
	s := &lockAgentState
	op := words[0]
	switch op {
	case "start":
		s.path, s.files = words[1], map[string]*os.File{}
		return []int{os.Getpid(), unix.Gettid()}, interruptible()
	case "open":
		flags := map[string]int{"r": unix.O_RDONLY, "w": unix.O_WRONLY, "rw": unix.O_RDWR}[words[2]]
		fd, err := unix.Open(s.path, flags|unix.O_CLOEXEC, 0)
		s.files[words[1]] = os.NewFile(uintptr(fd), words[1])
		return ErrText(err), nil
	case "close":
		return ErrText(s.files[words[1]].Close()), nil
	case "spawn":
		s.child = exec.Command("sleep", "60")
		s.child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		s.child.ExtraFiles = []*os.File{s.files[words[1]]}
		return ErrText(s.child.Start()), nil
	case "reap":
		_ = s.child.Process.Kill()
		_ = s.child.Wait()
		return "ok", nil
	}
	fd := int(s.files[words[1]].Fd())
	typ := map[string]int16{"r": unix.F_RDLCK, "w": unix.F_WRLCK, "u": unix.F_UNLCK}[words[2]]
	if how, ok := map[string]int{"flock": unix.LOCK_NB, "flockw": 0}[op]; ok {
		how |= []int{unix.LOCK_SH, unix.LOCK_EX, unix.LOCK_UN}[typ]
		return ErrText(unix.Flock(fd, how)), nil
	}
	start, _ := strconv.ParseInt(words[3], 10, 64)
	length, _ := strconv.ParseInt(words[4], 10, 64)
	lock := unix.Flock_t{Type: typ, Start: start, Len: length}
	cmd, ok := map[string]int{
		"posix": unix.F_SETLK, "posixw": unix.F_SETLKW, "get": unix.F_GETLK,
		"ofd": unix.F_OFD_SETLK, "ofdw": unix.F_OFD_SETLKW, "getofd": unix.F_OFD_GETLK,
	}[op]
	if !ok {
		return nil, fmt.Errorf("no call %q", op)
	}
	err := unix.FcntlFlock(uintptr(fd), cmd, &lock)
	if err != nil || !strings.HasPrefix(op, "get") {
		return ErrText(err), nil
	}
	if lock.Type == unix.F_UNLCK {
		return "free", nil
	}
	return fmt.Sprint(lock.Type, lock.Start, lock.Len, " ", lock.Pid), nil
}

// interruptible has SIGUSR2 end system calls, which Go's handlers restart.
func interruptible() error {
	signal.Notify(make(chan os.Signal, 8), unix.SIGUSR2)
	var action struct {
		handler  uintptr
		flags    uint64
		restorer uintptr
		mask     uint64
	}
	const restart = 0x10000000 // SA_RESTART
	call := func(set, get unsafe.Pointer) error {
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGUSR2), uintptr(set), uintptr(get), 8, 0, 0)
		if errno != 0 {
			return errno
		}
		return nil
	}
	if err := call(nil, unsafe.Pointer(&action)); err != nil {
		return err
	}
	action.flags &^= restart
	return call(unsafe.Pointer(&action), nil)
}
