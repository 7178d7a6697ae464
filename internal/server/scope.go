package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"strconv"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

const (
	// systemdRuns is there where systemd is the init, see sd_booted(3).
	systemdRuns = "/run/systemd/system"
	systemBus   = "/run/dbus/system_bus_socket"

	// scopeDelay is how long a mount waits for systemd at most.
	scopeDelay = 2 * time.Second
)

// scopeTime is how long systemd has to answer at all: it answers nobody while it
// reloads its units. It is a variable for tests.
var scopeTime = 30 * time.Second

// Scope is this process's request for a scope of its own: a unit of systemd that has a
// cgroup, and nothing but processes that run already.
//
// In the cgroup of its starter, a server ends with the login session or the service
// that the starter belongs to, and their memory limits are its own. Only systemd may
// move it: writing to cgroup.procs would break systemd's accounts, and would take a
// server out of the limits of its container.
type Scope struct {
	done chan struct{}
	err  error // valid when done is closed
}

// EnterScope asks systemd to move this process to a scope, and returns at once.
// It opens the system bus by path, so it is to be called before EnterOwnRoot.
// Where systemd is not the init there is nothing to ask, and nothing has failed.
func EnterScope(target string) *Scope {
	s := &Scope{done: make(chan struct{})}
	if _, err := os.Stat(systemdRuns); err != nil || inMountUnit() {
		close(s.done)
		return s
	}
	conns, err := dialSystemBus()
	if err != nil {
		s.err = err
		close(s.done)
		return s
	}
	go func() {
		defer close(s.done)
		s.err = enterScope(conns, target)
	}()
	return s
}

// Wait returns when the process is in its scope or stays where it is, or after
// scopeDelay. Then systemd may still move the process later.
func (s *Scope) Wait() {
	select {
	case <-s.done:
	case <-time.After(scopeDelay):
	}
}

// Log logs why the process stays in the cgroup of its starter, once that is known.
func (s *Scope) Log(logger *slog.Logger) {
	go func() {
		if <-s.done; s.err != nil {
			logger.Info("the server stays in the cgroup of its starter", "cause", s.err)
		}
	}()
}

// inMountUnit reports whether the process is in the cgroup of a mount unit: systemd
// has started mount(8), and the unit lives as long as the mount.
func inMountUnit() bool {
	text, err := os.ReadFile("/proc/self/cgroup")
	return err == nil && isMountUnit(text)
}

// isMountUnit looks at the line of the hierarchy that systemd uses for its units, see
// cgroups(7).
func isMountUnit(cgroups []byte) bool {
	unit := false
	for line := range bytes.Lines(cgroups) {
		_, line, _ = bytes.Cut(line, []byte(":"))
		controllers, path, _ := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(":"))
		if name := string(controllers); name == "" || name == "name=systemd" {
			unit = unit || bytes.HasSuffix(path, []byte(".mount"))
		}
	}
	return unit
}

// busConns are how many connections to the bus the library opens: for calls and for
// signals.
const busConns = 2

// dialSystemBus opens the connections that enterScope uses. It does not wait:
// connect(2) to a UNIX socket with a full backlog fails with EAGAIN.
func dialSystemBus() (conns []*net.UnixConn, err error) {
	for range busConns {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: systemBus, Net: "unix"})
		if err == nil {
			conns = append(conns, conn)
			err = checkPeer(conn)
		}
		if err != nil {
			closeAll(conns)
			return nil, fmt.Errorf("system bus: %w", err)
		}
	}
	return conns, nil
}

func closeAll(conns []*net.UnixConn) {
	for _, c := range conns {
		c.Close()
	}
}

var errForeignBus = errors.New("it belongs to another pid namespace")

// checkPeer refuses a bus of the host that a container has been given: its systemd
// would take the server out of the container.
func checkPeer(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	ctl := raw.Control(func(fd uintptr) {
		peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(ctl, os.NewSyscallError("getsockopt", err)); err != nil {
		return err
	}
	if peer.Pid == 0 {
		return errForeignBus
	}
	return nil
}

// enterScope takes conns over. It returns nil when systemd has moved this process.
func enterScope(conns []*net.UnixConn, target string) error {
	ctx, cancel := context.WithTimeout(context.Background(), scopeTime)
	defer cancel()
	err := startScope(ctx, conns, target)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("no answer within %v", scopeTime)
	}
	if err != nil {
		return fmt.Errorf("systemd: %w", err)
	}
	return nil
}

func startScope(ctx context.Context, conns []*net.UnixConn, target string) error {
	defer func() { closeAll(conns) }()
	conn, err := systemd.NewConnection(func() (*dbus.Conn, error) {
		if len(conns) == 0 {
			return nil, errors.New("no more connections to the bus")
		}
		c := conns[0]
		conns = conns[1:]
		return startConn(ctx, c)
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	result := make(chan string, 1) // else the library could wait for us
	_, err = conn.StartTransientUnitContext(ctx, scopeName(), "fail", scopeProperties(target), result)
	if err != nil {
		return err
	}
	select {
	case r := <-result:
		if r != "done" {
			return fmt.Errorf("start of %s: %s", scopeName(), r)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// startConn makes a connection ready. It is closed when ctx ends, with whatever waits
// for an answer on it.
func startConn(ctx context.Context, c *net.UnixConn) (*dbus.Conn, error) {
	conn, err := dbus.NewConn(c, dbus.WithContext(ctx))
	if err != nil {
		c.Close()
		return nil, err
	}
	if err = conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Geteuid()))}); err == nil {
		err = conn.Hello()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func scopeName() string { return fmt.Sprintf("idmount-%d.scope", os.Getpid()) }

// scopeProperties are the properties of the scope. systemd refuses a unit with a property
// that it does not know, so there are none of recent versions (OOMPolicy, for one, which
// makes no difference to a single process).
//
// At shutdown systemd stops nothing without default dependencies, so the server is
// there when the mount is unmounted, which ends it. Whoever stops the scope sends
// SIGTERM, which unmounts; no SIGKILL follows while files are open.
func scopeProperties(target string) []systemd.Property {
	property := func(name string, value any) systemd.Property {
		return systemd.Property{Name: name, Value: dbus.MakeVariant(value)}
	}
	return []systemd.Property{
		// 0 is the sender, in whatever pid namespace systemd is.
		systemd.PropPids(0),
		// Quoted: a line break would be a line of the unit's file.
		systemd.PropDescription("idmount server of " + strconv.Quote(target)),
		systemd.PropSlice("system.slice"),
		property("DefaultDependencies", false),
		property("TimeoutStopUSec", uint64(math.MaxUint64)), // never
		property("CollectMode", "inactive-or-failed"),
	}
}
