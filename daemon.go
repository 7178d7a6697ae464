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
)

// daemonCommand is the hidden subcommand of the idmount program that runs
// ServeDaemon.
const daemonCommand = "serve-daemon"

// The descriptors that a daemon inherits.
const (
	daemonSource = 3 + iota // the tree to show
	daemonTarget            // O_PATH
	daemonConn              // stream socket: the request in, the outcome out
)

// outcome is what the daemon answers, once.
type outcome struct {
	Error string `json:"error,omitempty"`
	Errno int    `json:"errno,omitempty"`
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
// mount is in place; 0 if there is nothing to serve.
func (p *plan) startDaemon(ctx context.Context) (pid int, err error) {
	program := p.opts.Daemon
	if program == "" {
		if program, err = exec.LookPath("idmount"); err != nil {
			return 0, fmt.Errorf("find the program that serves FUSE mounts: %w", err)
		}
	}
	r, err := p.request()
	if err != nil {
		return 0, err
	}
	defer r.close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "daemon"), os.NewFile(uintptr(pair[1]), "daemon")
	defer ours.Close()

	cmd := exec.Command(program, daemonCommand)
	cmd.Args[0] = "idmount"
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	if v, ok := os.LookupEnv("GODEBUG"); ok {
		cmd.Env = append(cmd.Env, "GODEBUG="+v) // what holds for this process's runtime does for its server's
	}
	cmd.ExtraFiles = []*os.File{r.source, r.target, theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return 0, fmt.Errorf("start the server: %w", err)
	}
	result, err := handOver(ctx, ours, r)
	if err == nil && result.Error == "" {
		// It lives on. Somebody has to reap it if this process lives longer.
		p.served = result.served
		if result.Unserved {
			cmd.Wait()
			return 0, nil
		}
		pid := cmd.Process.Pid
		go cmd.Wait()
		return pid, nil
	}
	if err != nil {
		// It may have mounted meanwhile: let it unmount, but not for long.
		cmd.Process.Signal(unix.SIGTERM)
		kill := time.AfterFunc(5*time.Second, func() { cmd.Process.Kill() })
		defer kill.Stop()
	}
	wait := cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return 0, fmt.Errorf("start the server: %w", ctx.Err())
	case err != nil && wait != nil:
		return 0, fmt.Errorf("start the server: it ended before the mount was ready: %w", wait)
	case err != nil:
		return 0, fmt.Errorf("start the server: %w", err)
	}
	return 0, &DaemonError{Message: result.Error, Errno: unix.Errno(result.Errno)}
}

// handOver sends the request and waits for the outcome.
func handOver(ctx context.Context, conn *os.File, r *request) (outcome, error) {
	stop := context.AfterFunc(ctx, func() { unix.Shutdown(int(conn.Fd()), unix.SHUT_RDWR) })
	defer stop()
	if err := json.NewEncoder(conn).Encode(r); err != nil {
		return outcome{}, err
	}
	var result outcome
	err := json.NewDecoder(conn).Decode(&result)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return result, err
}

// ServeDaemon is the other end of Mount: it serves the request that this
// process has inherited until the mount is gone. SIGTERM and SIGINT unmount it.
// It is for the idmount program's own use, and returns an error only when there
// was nobody to tell it to.
func ServeDaemon(ctx context.Context) error {
	conn := os.NewFile(daemonConn, "request")
	defer conn.Close()
	for _, fd := range []int{daemonSource, daemonTarget, daemonConn} {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			return fmt.Errorf("serve: this command is started by idmount itself: descriptor %d: %w", fd, err)
		}
	}
	var r request
	if err := json.NewDecoder(conn).Decode(&r); err != nil {
		return fmt.Errorf("serve: read the request: %w", err)
	}
	r.source = os.NewFile(daemonSource, r.Source)
	r.target = os.NewFile(daemonTarget, r.Target)
	defer r.close()

	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer stop()
	signal.Ignore(unix.SIGHUP, unix.SIGPIPE, unix.SIGXFSZ)

	answered := false
	answer := func(o outcome) error {
		answered = true
		defer conn.Close()
		return json.NewEncoder(conn).Encode(o)
	}
	err := r.serve(ctx, slog.New(slog.DiscardHandler), func(s served) error { return answer(outcome{served: s}) })
	if err != nil && !answered {
		var errno unix.Errno
		errors.As(err, &errno)
		return answer(outcome{Error: err.Error(), Errno: int(errno)})
	}
	return err
}
