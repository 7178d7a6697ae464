package testenv

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// agentEnv holds the Caller, as JSON, that a re-executed test binary acts as.
const agentEnv = "IDMOUNT_TESTENV_AGENT"

// callTimeout is for one call of an agent. One that takes longer hangs, most
// likely in a FUSE mount whose server does not answer. A machine that stands still for half
// a minute, as virtual ones do while they are copied, is no such case.
const callTimeout = Patience

// AllCaps is every capability that the process may have.
const AllCaps = ^uint64(0)

// A Caller is who an agent acts as.
type Caller struct {
	// Namespaces are the user namespaces around the agent, outermost first;
	// none is that of the test. Each maps its ids 0.. to Outer.. of the
	// namespace around it.
	Namespaces []Namespace
	// UID and GID are the real, effective, saved and file system ids, as
	// numbers of the innermost namespace.
	UID, GID uint32
	// Groups are the supplementary groups. Nil is none.
	Groups []uint32
	// Caps are the effective and permitted capabilities in the innermost
	// namespace, less those which the process cannot have.
	Caps uint64
}

// A Namespace is one range of ids, for users and groups alike.
type Namespace struct{ Outer, Count uint32 }

// A Handler runs in the agent's process, on the thread that acts as Caller.
type Handler func(arg json.RawMessage) (any, error)

var handlers = map[string]Handler{}

// Handle registers what agents can be asked to run. It belongs into an init
// function of the test binary, as the agent starts from the same binary.
func Handle(name string, h Handler) { handlers[name] = h }

// An Agent is a process that acts as a Caller.
type Agent struct {
	cmd  *exec.Cmd
	in   *os.File
	enc  *json.Encoder
	dec  *json.Decoder
	dead error
}

type request struct {
	Op  string
	Arg json.RawMessage
}

type reply struct {
	Result json.RawMessage
	Err    string
}

// StartAgent starts an agent, which ends with the test.
func StartAgent(t testing.TB, c Caller) *Agent {
	t.Helper()
	RequireRoot(t)
	spec, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	inR, inW, err := blockingPipe()
	if err != nil {
		t.Fatal(err)
	}
	outR, outW, err := blockingPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := agentCommand(string(spec), c.Namespaces, inR, outW)
	err = onLastingThread(cmd.Start)
	inR.Close()
	outW.Close()
	if err != nil {
		inW.Close()
		outR.Close()
		t.Fatalf("start agent %s: %v", spec, err)
	}
	a := &Agent{cmd: cmd, in: inW, enc: json.NewEncoder(inW), dec: json.NewDecoder(outR)}
	t.Cleanup(func() {
		inW.Close() // its input ends, and so does it
		timer := time.AfterFunc(callTimeout, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		timer.Stop()
		outR.Close()
	})
	if err := a.Call("", nil, nil); err != nil {
		t.Fatalf("agent %s: %v", spec, err)
	}
	return a
}

// lastingThread runs functions on a thread that ends with the process.
var lastingThread = sync.OnceValue(func() chan<- func() {
	calls := make(chan func())
	go func() {
		runtime.LockOSThread()
		for call := range calls {
			call()
		}
	}()
	return calls
})

// onLastingThread is for what must outlive other threads: Pdeathsig comes when the
// thread ends that has started a process, and Go ends threads that goroutines have
// locked.
func onLastingThread(fn func() error) error {
	result := make(chan error)
	lastingThread() <- func() { result <- fn() }
	return <-result
}

// blockingPipe is a pipe that the runtime's poller has no part in. A reader
// sleeps in read(2), which spares a call two switches of threads.
func blockingPipe() (r, w *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("pipe: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe"), nil
}

func agentCommand(spec string, namespaces []Namespace, in, out *os.File) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), agentEnv+"="+spec)
	cmd.ExtraFiles = []*os.File{in, out}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if len(namespaces) > 0 {
		n := namespaces[0]
		ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(n.Outer), Size: int(n.Count)}}
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = ids
		cmd.SysProcAttr.GidMappings = ids
		cmd.SysProcAttr.GidMappingsEnableSetgroups = true
		cmd.SysProcAttr.Credential = &syscall.Credential{}
	}
	return cmd
}

// Call runs the handler op in the agent, with arg and result passed as JSON.
// The error is that of the agent or of its handler. After a call that hangs
// the agent is killed, and all further calls fail.
func (a *Agent) Call(op string, arg, result any) error {
	if a.dead != nil {
		return a.dead
	}
	raw, err := json.Marshal(arg)
	if err != nil {
		return err
	}
	hung := false
	timer := time.AfterFunc(callTimeout, func() {
		hung = true
		_ = a.cmd.Process.Kill()
	})
	var r reply
	err = a.enc.Encode(request{Op: op, Arg: raw})
	if err == nil {
		err = a.dec.Decode(&r)
	}
	timer.Stop()
	if err != nil {
		if hung {
			err = fmt.Errorf("no answer within %v, killed", callTimeout)
		}
		a.dead = fmt.Errorf("agent: %w", err)
		return a.dead
	}
	if r.Err != "" {
		return errors.New(r.Err)
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(r.Result, result)
}

// Dead reports whether all further calls fail.
func (a *Agent) Dead() bool { return a.dead != nil }

// runAgent is the whole life of an agent. Descriptors 3 and 4 are its input
// and output.
func runAgent(spec string) {
	runtime.LockOSThread()
	if err := serveAgent(spec); err != nil {
		fmt.Fprintln(os.Stderr, "testenv: agent:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serveAgent(spec string) error {
	var c Caller
	if err := json.Unmarshal([]byte(spec), &c); err != nil {
		return err
	}
	in, out := os.NewFile(3, "input"), os.NewFile(4, "output")
	if len(c.Namespaces) > 1 {
		// Each level starts the next one: a namespace's maps are written
		// by who is in the namespace around it.
		c.Namespaces = c.Namespaces[1:]
		inner, err := json.Marshal(c)
		if err != nil {
			return err
		}
		return agentCommand(string(inner), c.Namespaces, in, out).Run()
	}
	syscall.CloseOnExec(3)
	syscall.CloseOnExec(4)
	_ = os.Unsetenv(agentEnv)
	if err := c.become(); err != nil {
		return err
	}

	dec, enc := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var q request
		if err := dec.Decode(&q); err != nil {
			return nil // closed: the test is over
		}
		if err := enc.Encode(handle(q)); err != nil {
			return err
		}
	}
}

func handle(q request) reply {
	if q.Op == "" {
		return reply{}
	}
	h := handlers[q.Op]
	if h == nil {
		return reply{Err: fmt.Sprintf("no handler %q", q.Op)}
	}
	result, err := h(q.Arg)
	if err != nil {
		return reply{Err: err.Error()}
	}
	raw, err := json.Marshal(result)
	if err != nil {
		return reply{Err: err.Error()}
	}
	return reply{Result: raw}
}

// become gives the calling thread the credentials of c for good. Raw calls,
// because those of the Go library change every thread, and the others neither
// matter nor may fail here.
func (c Caller) become() error {
	// Else leaving uid 0 would take the capabilities along.
	const noFixup = 1 << 2 // SECBIT_NO_SETUID_FIXUP
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, noFixup, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl (no setuid fixup): %w", err)
	}
	if err := setgroups(c.Groups); err != nil {
		return fmt.Errorf("setgroups %v: %w", c.Groups, err)
	}
	g, u := uintptr(c.GID), uintptr(c.UID)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, g, g, g); errno != 0 {
		return fmt.Errorf("setresgid %d: %w", c.GID, errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, u, u, u); errno != 0 {
		return fmt.Errorf("setresuid %d: %w", c.UID, errno)
	}
	// A program that the caller runs must see the ordinary rules again.
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl (secure bits): %w", err)
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return fmt.Errorf("capget: %w", err)
	}
	for i := range data {
		data[i].Permitted &= uint32(c.Caps >> (32 * i))
		data[i].Effective = data[i].Permitted
		data[i].Inheritable = 0
	}
	if err := unix.Capset(&hdr, &data[0]); err != nil {
		return fmt.Errorf("capset %#x: %w", c.Caps, err)
	}
	// After capset: a thread that has changed its ids is not dumpable, and
	// /proc/self of one such belongs to root.
	return unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
}
