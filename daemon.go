package idmount

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/server"
	"github.com/idmount/idmount/internal/sys"
)

// daemonCommand is the hidden subcommand of the idmount program that runs
// ServeDaemon.
const daemonCommand = "serve-daemon"

// The descriptors that a daemon is handed over. Behind them are those that handover
// says there are: the user namespace and the mount namespace of the target.
const (
	daemonSource = 3 + iota // the tree to show
	daemonTarget            // O_PATH
	daemonConn              // stream socket: the request in, the outcome out
)

// handover is a request as it is sent. Paths are bytes, which a string of JSON is not.
type handover struct {
	Request        *request
	Source, Target []byte
	UserNamespace  bool
	Origin         bool
	Warnings       []string // what the starter could not do for the server
}

// outcome is what the daemon answers, once.
type outcome struct {
	Error []byte `json:"error,omitempty"`
	Errno int    `json:"errno,omitempty"`
	// NoRoot says that the daemon can't do without the starter's mount namespace.
	NoRoot bool `json:"no_root,omitempty"`
	served
}

// DaemonError is why the process that serves a mount could not start.
type DaemonError struct {
	Message string
	Errno   unix.Errno // 0 if the cause is no failed system call
}

func (e *DaemonError) Error() string { return e.Message }

// Unwrap gives errors.Is the errno.
func (e *DaemonError) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

// startDaemon hands the request to a new process, and returns its id when the
// mount is in place, with what it says of that; 0 if there is nothing to serve.
func (p *plan) startDaemon(ctx context.Context) (pid int, s served, err error) {
	program := p.opts.Daemon
	if program == "" {
		if program, err = exec.LookPath("idmount"); err != nil {
			return 0, served{}, fmt.Errorf("find the program that serves FUSE mounts: %w", err)
		}
	}
	r, err := p.request()
	if err != nil {
		return 0, served{}, err
	}
	defer r.close()
	// Start uses another thread, which need not be in the same namespace.
	namespace, err := server.OpenNamespace()
	if err != nil {
		return 0, served{}, err
	}
	defer namespace.Close()
	l := &launch{program: program, request: r, namespace: namespace}
	if !server.Outlives(namespace) {
		r.origin = namespace
		pid, s, err = l.run(ctx)
		if !errors.Is(err, errNoRoot) {
			return pid, s, err
		}
		r.origin = nil
		l.warnings = []string{fmt.Sprintf("the server stays in the mount namespace that it was started in, and keeps it alive: %v", err)}
	}
	return l.run(ctx)
}

// errNoRoot says that the server could not be given a mount namespace of its own.
var errNoRoot = errors.New("no mount namespace of its own")

// launch is an attempt to start a server.
type launch struct {
	program   string
	request   *request
	namespace *os.File
	warnings  []string
}

func (l *launch) run(ctx context.Context) (pid int, s served, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, served{}, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "daemon"), os.NewFile(uintptr(pair[1]), "daemon")
	defer ours.Close()
	cmd, err := l.start(theirs)
	theirs.Close()
	if err != nil {
		return 0, served{}, err
	}
	result, err := l.handOver(ctx, ours)
	if err == nil && result.Error == nil {
		if result.Unserved {
			cmd.Wait()
			return 0, result.served, nil
		}
		// It lives on. Somebody has to reap it if this process lives longer.
		pid := cmd.Process.Pid
		go cmd.Wait()
		return pid, result.served, nil
	}
	if err != nil {
		// It may have mounted meanwhile: let it unmount, but not for long.
		cmd.Process.Signal(unix.SIGTERM)
		kill := time.AfterFunc(5*time.Second, func() { cmd.Process.Kill() })
		defer kill.Stop()
	}
	wait := cmd.Wait()
	if err != nil {
		l.request.removeLeft()
	}
	switch {
	case ctx.Err() != nil:
		return 0, served{}, fmt.Errorf("start the server: %w", ctx.Err())
	case err != nil && wait != nil:
		return 0, served{}, fmt.Errorf("start the server: it ended before the mount was ready: %w", wait)
	case err != nil:
		return 0, served{}, fmt.Errorf("start the server: %w", err)
	case result.NoRoot:
		return 0, served{}, fmt.Errorf("%w: %s", errNoRoot, result.Error)
	}
	return 0, served{}, &DaemonError{Message: string(result.Error), Errno: unix.Errno(result.Errno)}
}

// start starts the process, in a copy of the mount namespace if it is to leave that.
func (l *launch) start(conn *os.File) (*exec.Cmd, error) {
	cmd := exec.Command(l.program, daemonCommand)
	cmd.Args[0] = "idmount"
	cmd.Dir = "/"
	cmd.Env = []string{}
	if v, ok := os.LookupEnv("GODEBUG"); ok {
		cmd.Env = append(cmd.Env, "GODEBUG="+v) // what holds for this process's runtime does for its server's
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.ExtraFiles = []*os.File{l.request.source, l.request.target, conn}
	if l.request.userns != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, l.request.userns)
	}
	if l.request.origin != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, l.request.origin)
		cmd.SysProcAttr.Unshareflags = unix.CLONE_NEWNS // with all of it private
	}
	warning, err := server.Start(cmd, l.namespace, serverCaps)
	if err != nil {
		err = fmt.Errorf("start the server: %w", err)
		if l.request.origin != nil && !errors.Is(err, os.ErrNotExist) {
			err = fmt.Errorf("%w: %w", errNoRoot, err)
		}
		return nil, err
	}
	if warning != nil {
		l.warnings = append(l.warnings, "the server runs as its starter does: "+sys.Reasons(warning))
	}
	return cmd, nil
}

// handOver sends the request and waits for the outcome.
func (l *launch) handOver(ctx context.Context, conn *os.File) (outcome, error) {
	stop := context.AfterFunc(ctx, func() { unix.Shutdown(int(conn.Fd()), unix.SHUT_RDWR) })
	defer stop()
	r := l.request
	err := json.NewEncoder(conn).Encode(handover{
		Request: r, Source: []byte(r.Source), Target: []byte(r.Target),
		UserNamespace: r.userns != nil, Origin: r.origin != nil, Warnings: l.warnings,
	})
	if err != nil {
		return outcome{}, err
	}
	var result outcome
	err = json.NewDecoder(conn).Decode(&result)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return result, err
}

// receive reads the request that this process has been handed over, and closes all
// else that its starter had open.
func receive(conn *os.File) (*request, []string, error) {
	var keep []int
	take := func(fd int) error {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			return fmt.Errorf("serve: this command is started by idmount itself: descriptor %d: %w", fd, err)
		}
		keep = append(keep, fd)
		return nil
	}
	if err := take(daemonConn); err != nil {
		return nil, nil, err
	}
	h := handover{Request: &request{}}
	if err := json.NewDecoder(conn).Decode(&h); err != nil {
		return nil, nil, fmt.Errorf("serve: read the request: %w", err)
	}
	r := h.Request
	r.Source, r.Target = string(h.Source), string(h.Target)
	files := []**os.File{&r.source, &r.target}
	names := []string{r.Source, r.Target}
	fds := []int{daemonSource, daemonTarget}
	for _, more := range []struct {
		has  bool
		file **os.File
		name string
	}{
		{h.UserNamespace, &r.userns, "user namespace"},
		{h.Origin, &r.origin, "mount namespace"},
	} {
		if more.has {
			fds = append(fds, daemonSource+len(fds)+1)
			files, names = append(files, more.file), append(names, more.name)
		}
	}
	for i, file := range files {
		if err := take(fds[i]); err != nil {
			r.close()
			return nil, nil, err
		}
		*file = os.NewFile(uintptr(fds[i]), names[i])
	}
	if err := server.CloseInherited(keep...); err != nil {
		r.close()
		return nil, nil, err
	}
	return r, h.Warnings, nil
}

// ServeDaemon is the other end of Mount: it serves the request that this
// process has inherited until the mount is gone. SIGTERM and SIGINT unmount it; the
// second of them ends the process at once.
// It is for the idmount program's own use, and returns an error only when there
// was nobody to tell it to.
func ServeDaemon(ctx context.Context) error {
	conn := os.NewFile(daemonConn, "request")
	defer conn.Close()
	r, warnings, err := receive(conn)
	if err != nil {
		return err
	}
	defer r.close()

	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop) // the next one does what it does to any process
	signal.Ignore(unix.SIGHUP, unix.SIGPIPE, unix.SIGXFSZ)

	answered := false
	answer := func(o outcome) error {
		answered = true
		defer conn.Close()
		return json.NewEncoder(conn).Encode(o)
	}
	scope := server.EnterScope(r.Target)
	if r.origin != nil {
		if err := server.EnterOwnRoot(); err != nil {
			return answer(outcome{Error: []byte(err.Error()), NoRoot: true})
		}
	}
	syslog := server.OpenLog()
	defer syslog.Close()
	logger := syslog.Logger(slog.String("mount", r.Target), slog.String("source", r.Source), slog.String("backend", r.backend()))
	if w := server.SetOOMScore(); w != "" {
		warnings = append(warnings, w)
	}
	for _, w := range warnings {
		r.warn(logger, w)
	}
	scope.Log(logger)
	err = r.serve(ctx, logger, func(s served) error {
		scope.Wait() // the starter's cgroup may end with the starter
		return answer(outcome{served: s})
	})
	if err != nil && !answered {
		var errno unix.Errno
		errors.As(err, &errno)
		return answer(outcome{Error: []byte(err.Error()), Errno: int(errno)})
	}
	if err != nil {
		logger.Error("the server ends", "cause", err)
	}
	return err
}

// backend is the name of the backend that needs this server.
func (r *request) backend() string {
	if r.Relay {
		return string(Relay)
	}
	return string(Translate)
}
