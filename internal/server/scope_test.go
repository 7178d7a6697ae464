package server

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/idmount/idmount/internal/test/testenv"
)

// booted makes /run look as if systemd were the init, without a bus.
func booted(t *testing.T) {
	t.Helper()
	testenv.RequireRoot(t)
	for _, dir := range []string{filepath.Dir(systemdRuns), filepath.Dir(systemBus)} {
		testenv.Mount(t, "tmpfs", dir, "mode=0755")
	}
	if err := os.Mkdir(systemdRuns, 0o755); err != nil {
		t.Fatal(err)
	}
}

// busConfig lets everybody do everything, as a session's bus does.
const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path=` + systemBus + `</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
`

// startBus runs a bus at the address of the system's until the test ends, and returns a
// connection to it, and its process.
func startBus(t *testing.T) (*dbus.Conn, *os.Process) {
	t.Helper()
	booted(t)
	config := filepath.Join(t.TempDir(), "bus.conf")
	if err := os.WriteFile(config, []byte(busConfig), 0o644); err != nil {
		t.Fatal(err)
	}
	program, err := exec.LookPath("dbus-daemon")
	if err != nil {
		testenv.Skip(t, testenv.NeedProgram, err.Error())
	}
	cmd := exec.Command(program, "--config-file="+config, "--nofork", "--nopidfile")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	var conn *dbus.Conn
	testenv.WaitFor(t, "there is no bus", func() bool {
		conn, err = dbus.Connect("unix:path=" + systemBus)
		return err == nil
	})
	t.Cleanup(func() { conn.Close() })
	return conn, cmd.Process
}

// call is a call of StartTransientUnit.
type call struct {
	Unit, Mode string
	Properties map[string]any
	Sender     int // pid
}

const jobPath = dbus.ObjectPath("/org/freedesktop/systemd1/job/7")

// fakeSystemd is the Manager object of systemd. It carries nothing out.
type fakeSystemd struct {
	conn    *dbus.Conn
	bus     *os.Process
	calls   chan call
	refuse  *dbus.Error
	release <-chan struct{} // a call is answered when it is closed, if it is not nil
	result  string          // of the job, at once; "" for none
}

type auxUnit struct {
	Name       string
	Properties []systemd.Property
}

func (f *fakeSystemd) StartTransientUnit(sender dbus.Sender, unit, mode string, properties []systemd.Property, _ []auxUnit) (dbus.ObjectPath, *dbus.Error) {
	c := call{Unit: unit, Mode: mode, Properties: map[string]any{}}
	for _, p := range properties {
		c.Properties[p.Name] = p.Value.Value()
	}
	var pid uint32
	if err := f.conn.BusObject().Call("org.freedesktop.DBus.GetConnectionUnixProcessID", 0, string(sender)).Store(&pid); err != nil {
		return "", dbus.MakeFailedError(err)
	}
	c.Sender = int(pid)
	f.calls <- c
	if f.release != nil {
		<-f.release
	}
	if f.refuse != nil {
		return "", f.refuse
	}
	if f.result != "" {
		f.end(unit, f.result) // before the answer, which is the harder order
	}
	return jobPath, nil
}

// end says how the job ended.
func (f *fakeSystemd) end(unit, result string) {
	_ = f.conn.Emit("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager.JobRemoved", uint32(7), jobPath, unit, result)
}

func startSystemd(t *testing.T, f *fakeSystemd) *fakeSystemd {
	t.Helper()
	f.conn, f.bus = startBus(t)
	f.calls = make(chan call, 10)
	if err := f.conn.Export(f, "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"); err != nil {
		t.Fatal(err)
	}
	if reply, err := f.conn.RequestName("org.freedesktop.systemd1", dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatalf("request the name: %v, %v", reply, err)
	}
	return f
}

// wait returns the next call.
func (f *fakeSystemd) wait(t *testing.T) call {
	t.Helper()
	select {
	case c := <-f.calls:
		return c
	case <-time.After(testenv.Patience):
		t.Fatal("systemd is not asked")
		panic("unreachable")
	}
}

// patient gives this process's requests the time that a busy machine may take.
func patient(t *testing.T) {
	old := scopeTime
	scopeTime = testenv.Patience
	t.Cleanup(func() { scopeTime = old })
}

func (s *Scope) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// The call names the process and quotes the target, and the end of the job, no other's,
// is waited for.
func TestEnterScope(t *testing.T) {
	patient(t)
	f := startSystemd(t, &fakeSystemd{})
	s := EnterScope("/caf\xe9\nSlice=%n")
	got := f.wait(t)
	want := call{
		Unit: fmt.Sprintf("idmount-%d.scope", os.Getpid()), Mode: "fail", Sender: os.Getpid(),
		Properties: map[string]any{
			"PIDs":                []uint32{0},
			"Description":         `idmount server of "/caf\xe9\nSlice=%n"`,
			"Slice":               "system.slice",
			"DefaultDependencies": false,
			"TimeoutStopUSec":     uint64(math.MaxUint64),
			"CollectMode":         "inactive-or-failed",
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the call (-want +got):\n%s", diff)
	}
	// The signal of another job, before that of ours, on the same connection.
	_ = f.conn.Emit("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager.JobRemoved", uint32(8), jobPath+"8", "other.service", "failed")
	if time.Sleep(50 * time.Millisecond); s.ended() {
		t.Fatalf("ended before the job, with %v", s.err)
	}
	f.end(got.Unit, "done")
	testenv.WaitFor(t, "the job has ended", s.ended)
	if s.err != nil {
		t.Error(s.err)
	}
}

func TestScopeRefused(t *testing.T) {
	patient(t)
	for _, c := range []struct {
		name string
		f    fakeSystemd
		want string
	}{
		{"refused", fakeSystemd{refuse: dbus.NewError("org.freedesktop.DBus.Error.InteractiveAuthorizationRequired", []any{"Interactive authentication required."})},
			"systemd: Interactive authentication required."},
		{"failed", fakeSystemd{result: "failed"}, fmt.Sprintf("systemd: start of idmount-%d.scope: failed", os.Getpid())},
	} {
		t.Run(c.name, func(t *testing.T) {
			startSystemd(t, &c.f)
			s := EnterScope("/mnt")
			testenv.WaitFor(t, "it waits", s.ended)
			if s.err == nil || s.err.Error() != c.want {
				t.Errorf("got %v, want %s", s.err, c.want)
			}
		})
	}
	t.Run("no systemd on the bus", func(t *testing.T) {
		startBus(t)
		s := EnterScope("/mnt")
		testenv.WaitFor(t, "it waits", s.ended)
		if s.err == nil || !strings.Contains(s.err.Error(), "org.freedesktop.systemd1") {
			t.Error(s.err)
		}
	})
	t.Run("bus ends", func(t *testing.T) {
		release := make(chan struct{})
		defer close(release)
		f := startSystemd(t, &fakeSystemd{release: release})
		s := EnterScope("/mnt")
		f.wait(t)
		if s.ended() {
			t.Fatalf("ended without an answer: %v", s.err)
		}
		if err := f.bus.Kill(); err != nil {
			t.Fatal(err)
		}
		testenv.WaitFor(t, "it waits", s.ended)
		if s.err == nil {
			t.Error("no error")
		}
	})
}

func TestMountUnitStays(t *testing.T) {
	for _, c := range []struct {
		cgroups string
		want    bool
	}{
		{"0::/system.slice/mnt-view.mount\n", true},
		{"1:name=systemd:/system.slice/mnt-view.mount\n0::/\n", true},
		{"0::/user.slice/user-0.slice/session-1.scope\n", false},
		{"3:memory:/x.mount\n0::/system.slice/a.service\n", false},
		{"0::/system.slice/x.mount/child\n", false},
		{"", false},
	} {
		if got := isMountUnit([]byte(c.cgroups)); got != c.want {
			t.Errorf("%q: %v", c.cgroups, got)
		}
	}
}

// journalSocket receives what is sent to the journal.
type journalSocket struct{ conn *net.UnixConn }

func openJournal(t *testing.T) *journalSocket {
	t.Helper()
	const dir = "/run/systemd/journal"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/socket", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &journalSocket{conn}
}

// wait returns the next record that has the text.
func (j *journalSocket) wait(t *testing.T, text string) string {
	t.Helper()
	if err := j.conn.SetReadDeadline(time.Now().Add(testenv.Patience)); err != nil {
		t.Fatal(err)
	}
	var buf [64 << 10]byte
	for {
		n, err := j.conn.Read(buf[:])
		if err != nil {
			t.Fatalf("no record says %q: %v", text, err)
		}
		if record := string(buf[:n]); strings.Contains(record, text) {
			return record
		}
	}
}

// mount makes a mount and returns the server's pid. stop reads a file in the mount and
// unmounts.
func mount(t *testing.T, attr *syscall.SysProcAttr) (pid int, stop func()) {
	t.Helper()
	source, target := testenv.Source(t, "tmpfs"), testenv.Dir(t)
	if err := os.WriteFile(source+"/file", []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-ec", `mount -t proc proc /proc
		"$0" mount --json --backend translate --map b:0:0:65536 "$1" "$2"; read end; cat "$2/file" >&2; "$0" umount "$2"`,
		testenv.Binary(t), source, target)
	if attr == nil {
		attr = &syscall.SysProcAttr{}
	}
	attr.Unshareflags = syscall.CLONE_NEWNS
	cmd.SysProcAttr = attr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var m struct {
		PID int `json:"pid"`
	}
	t.Cleanup(func() { // where stop is not called: without the shell the mount ends
		in.Close()
		_ = cmd.Wait()
	})
	var decoded error
	testenv.Returns(t, "mount waits", func() { decoded = json.NewDecoder(out).Decode(&m) })
	return m.PID, func() {
		t.Helper()
		_, _ = io.WriteString(in, "\n")
		if err := cmd.Wait(); err != nil || decoded != nil || stderr.String() != "text" {
			t.Errorf("%v, %v\n%s", err, decoded, stderr.String())
		}
	}
}

// waited fails the test if the mount was ready before systemd had scopeDelay to answer.
func waited(t *testing.T, start time.Time) {
	t.Helper()
	if d := time.Since(start); d < scopeDelay {
		t.Errorf("the mount was ready after %v", d)
	}
}

const stays = "MESSAGE=the server stays in the cgroup of its starter, cause: "

func TestMountEntersScope(t *testing.T) {
	f := startSystemd(t, &fakeSystemd{result: "done"})
	pid, stop := mount(t, nil)
	c := f.wait(t)
	if c.Sender != pid || c.Unit != fmt.Sprintf("idmount-%d.scope", pid) {
		t.Errorf("%s, sent by process %d, want %d", c.Unit, c.Sender, pid)
	}
	stop()
}

// Whatever the bus does, there is a mount, and a record that says why the server stays.
func TestMountWithoutScope(t *testing.T) {
	t.Run("no bus", func(t *testing.T) {
		booted(t)
		j := openJournal(t)
		_, stop := mount(t, nil)
		j.wait(t, stays+"system bus: dial unix "+systemBus+": connect: no such file or directory")
		stop()
	})
	t.Run("refused", func(t *testing.T) {
		startSystemd(t, &fakeSystemd{refuse: dbus.NewError("org.freedesktop.DBus.Error.AccessDenied", []any{"Access denied"})})
		j := openJournal(t)
		_, stop := mount(t, nil)
		if r := j.wait(t, stays+"systemd: Access denied"); !strings.Contains(r, "PRIORITY=6") {
			t.Errorf("the record is no information: %q", r)
		}
		stop()
	})
	t.Run("of another pid namespace", func(t *testing.T) {
		f := startSystemd(t, &fakeSystemd{result: "done"})
		j := openJournal(t)
		_, stop := mount(t, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID})
		j.wait(t, stays+"system bus: "+errForeignBus.Error())
		stop()
		if len(f.calls) > 0 {
			t.Error("the host's systemd is asked")
		}
	})
	t.Run("systemd hangs", func(t *testing.T) {
		release := make(chan struct{})
		f := startSystemd(t, &fakeSystemd{release: release})
		testenv.Binary(t) // builds it
		start := time.Now()
		_, stop := mount(t, nil)
		waited(t, start)
		f.wait(t)
		stop()
		close(release)
	})
	t.Run("bus hangs", func(t *testing.T) {
		booted(t)
		l, err := net.Listen("unix", systemBus)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		testenv.Binary(t) // builds it
		start := time.Now()
		_, stop := mount(t, nil)
		waited(t, start)
		stop()
	})
	t.Run("no systemd", func(t *testing.T) {
		f := startSystemd(t, &fakeSystemd{result: "done"})
		if err := os.Remove(systemdRuns); err != nil {
			t.Fatal(err)
		}
		_, stop := mount(t, nil)
		stop()
		if len(f.calls) > 0 {
			t.Error("systemd is asked, though it is not the init")
		}
	})
}
