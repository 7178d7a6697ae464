package uml

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrHung is the error of a guest that was killed, since its time was over or
// its context ended.
var ErrHung = errors.New("guest was killed")

// DefaultTimeout is the time a guest has, unless Options say otherwise: many times
// what it takes, as the machine may be busy.
const DefaultTimeout = 20 * time.Minute

// Options say what a guest runs. Command alone is needed.
type Options struct {
	// Command is executed with standard input from /dev/null, as root with
	// every capability. Its first word is looked up in the usual PATH.
	Command []string
	Dir     string        // working directory in the guest, "/" if empty
	Env     []string      // NAME=value, added to PATH, HOME, TERM and LC_ALL
	Modules []string      // for modprobe; what can't be loaded is noted on the console
	MemMB   int           // memory in MiB, 1024 if zero
	Timeout time.Duration // of boot and command together, DefaultTimeout if zero

	// Share is a directory of the host that the guest has, writable, at
	// GuestShare. Files there belong to the ids that wrote them; hostfs has
	// no extended attributes.
	Share string
	// Disks are image files of the host: /dev/ubda, /dev/ubdb and so on.
	Disks []string
	// Expose names absolute paths below the covered directories (/tmp, /run,
	// /var/tmp, /mnt) that the guest shall see, read-only. Dir and the
	// command's program need not be named.
	Expose []string
	// Cover names further directories over which to mount an empty tmpfs.
	Cover []string

	// Stdout gets the command's output while it runs.
	Stdout io.Writer
}

// Result is what came of a guest. It is filled as far as the guest got, with
// an error as well.
type Result struct {
	ExitCode int    // of the command; -1 if it did not end
	Output   string // standard output and standard error of the command
	Console  string // what the kernel and init said
	Elapsed  time.Duration
}

// Run boots the kernel, runs the command and returns when the guest is off. A
// command that fails is no error: see Result.ExitCode.
func (k *Kernel) Run(ctx context.Context, o Options) (Result, error) {
	r := Result{ExitCode: -1}
	if err := o.complete(); err != nil {
		return r, fmt.Errorf("run in kernel %s: %w", k.Release, err)
	}
	run, err := runDir()
	if err != nil {
		return r, fmt.Errorf("run in kernel %s: %w", k.Release, err)
	}
	defer os.RemoveAll(run)
	started := time.Now()
	r.Console, err = k.boot(ctx, o, run)
	r.Elapsed = time.Since(started)
	output, readErr := os.ReadFile(filepath.Join(run, "output"))
	if err == nil && readErr != nil && !errors.Is(readErr, os.ErrNotExist) {
		err = readErr
	}
	r.Output = string(output)
	if err == nil {
		r.ExitCode, err = exitCode(run)
	}
	if err != nil {
		return r, fmt.Errorf("run in kernel %s (%s after %s): %w: console: %s", k.Release,
			o.Command[0], r.Elapsed.Round(time.Millisecond), err, lastLines([]byte(r.Console), 10))
	}
	return r, nil
}

func (o *Options) complete() error {
	if len(o.Command) == 0 {
		return errors.New("no command")
	}
	if o.Dir == "" {
		o.Dir = "/"
	}
	if o.MemMB == 0 {
		o.MemMB = 1024
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Share != "" {
		var err error
		if o.Share, err = filepath.Abs(o.Share); err != nil {
			return err
		}
	}
	for _, e := range o.Env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return fmt.Errorf("environment entry %q: want NAME=value", e)
		}
	}
	return nil
}

// runDir makes the directory that host and guest share during one run. In
// memory if possible, for the guest writes there synchronously; and with a
// short name, for the kernel puts a socket there.
func runDir() (string, error) {
	if dir, err := os.MkdirTemp("/dev/shm", "uml-"); err == nil {
		return dir, nil
	}
	return os.MkdirTemp("", "uml-")
}

// writeInit writes the guest's init. Not below /dev, where the run's directory
// may be: the guest's kernel has covered that before it starts init.
func writeInit(script string) (path string, err error) {
	f, err := os.CreateTemp("", "uml-init-")
	if err != nil {
		return "", err
	}
	_, err = f.WriteString(script)
	if err := errors.Join(err, f.Chmod(0o755), f.Close()); err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

// exitCode reads what init wrote last.
func exitCode(run string) (int, error) {
	text, err := os.ReadFile(filepath.Join(run, "exit"))
	if errors.Is(err, os.ErrNotExist) {
		return -1, errors.New("guest ended before its command did")
	}
	if err != nil {
		return -1, err
	}
	code, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return -1, fmt.Errorf("exit code of the command: %w", err)
	}
	return code, nil
}

// commandLine is what the kernel is started with.
func commandLine(k *Kernel, o Options, run, init string) []string {
	args := []string{
		k.Program, "quiet", fmt.Sprintf("mem=%dM", o.MemMB),
		// Read-only from the start: there is no moment at which a daemon of
		// the guest could write to the host's root.
		"root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro",
		"init=" + init,
		"con=null", "con0=fd:0,fd:1", "ssl=null",
		"uml_dir=" + filepath.Join(run, "umid"),
		"panic=1",
	}
	for i, disk := range o.Disks {
		args = append(args, fmt.Sprintf("ubd%d=%s", i, disk))
	}
	return args
}

// boot runs the guest until it is off and returns what its console said.
func (k *Kernel) boot(ctx context.Context, o Options, run string) (console string, err error) {
	init, err := writeInit(initScript(k, o, run))
	if err != nil {
		return "", err
	}
	defer os.Remove(init)
	loader, err := os.Open(k.loader)
	if err != nil {
		return "", err
	}
	defer loader.Close()
	// The console's input stays open: at its end the kernel would close it,
	// with a complaint each time.
	stdin, hold, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer hold.Close()
	defer stdin.Close()

	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	args := commandLine(k, o, run, init)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var log bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &log, &log
	cmd.ExtraFiles = []*os.File{loader} // descriptor 3, see inheritedLoader
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+k.libDir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// The guest's processes are processes of the host, in the group of ours.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	start := cmd.Start
	if k.smallState() {
		start = func() error { return startWithoutXState(cmd) }
	}
	if err := start(); err != nil {
		return "", err
	}
	stop := follow(filepath.Join(run, "output"), o.Stdout)
	err = cmd.Wait()
	stop()
	// Whatever is left of the group: the kernel's threads end with it, but
	// not always at once.
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	if ctx.Err() != nil {
		return log.String(), fmt.Errorf("%w: %w", ErrHung, context.Cause(ctx))
	}
	if _, exitErr := exitCode(run); exitErr == nil {
		// How the process itself ends says nothing: the command has ended.
		return log.String(), nil
	}
	return log.String(), err
}

// follow copies what is appended to a file to w, until the function that it
// returns is called; that copies the rest.
func follow(path string, w io.Writer) (stop func()) {
	if w == nil {
		return func() {}
	}
	done, finished := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(finished)
		var f *os.File
		for last := false; ; {
			if f == nil {
				f, _ = os.Open(path)
			}
			if f != nil {
				_, _ = io.Copy(w, f)
			}
			if last {
				break
			}
			select {
			case <-done:
				last = true
			case <-time.After(50 * time.Millisecond):
			}
		}
		if f != nil {
			f.Close()
		}
	}()
	return func() { close(done); <-finished }
}
