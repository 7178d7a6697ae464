package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/idmap"
)

// mounted is a system in place.
type mounted struct {
	root   string
	pid    int // of the server; 0 if there is none
	counts func() (map[string]uint64, error)
	end    func() error
}

// ids is the map of all mounts: root stays root, so that the workloads, which
// root runs, may create files; the others move, so that translating is not idle.
func ids() idmap.Map {
	extents := []idmap.Extent{{Disk: 0, View: 0, Count: 1}, {Disk: 1000, View: 101000, Count: 1000}}
	m, err := idmap.New(extents, extents)
	if err != nil {
		panic(err) // it is a constant
	}
	return m
}

// mountOptions say how to mount beyond what the system says.
type mountOptions struct {
	descriptors uint64 // RLIMIT_NOFILE of the server; 0 leaves it
}

// mount shows the prepared data by a system.
func (e *env) mount(ctx context.Context, s System, o mountOptions) (*mounted, error) {
	if s.Kind == Source {
		return &mounted{root: e.data, end: func() error { return nil }}, nil
	}
	target, err := os.MkdirTemp(e.mounts, strings.ReplaceAll(s.Name, "+", "-")+"-")
	if err != nil {
		return nil, err
	}
	var m *mounted
	switch {
	case s.Kind == Native:
		m, err = e.native(ctx, target)
	case s.Ours():
		m, err = e.ours(ctx, s, target, o)
	default:
		m, err = e.peer(ctx, s, target, o)
	}
	if err != nil {
		os.Remove(target)
		return nil, err
	}
	unmount := m.end
	m.end = func() error {
		if err := unmount(); err != nil {
			return err
		}
		return os.Remove(target)
	}
	return m, nil
}

func (e *env) native(ctx context.Context, target string) (*mounted, error) {
	_, err := idmount.Mount(ctx, e.data, target, idmount.Options{Map: ids(), Backend: idmount.Native})
	if err != nil {
		return nil, err
	}
	return &mounted{root: target, end: func() error { return unmount(target) }}, nil
}

// process is a child that ends in its own time or is told to.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
}

func startProcess(cmd *exec.Cmd) (*process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	// Interrupts of the terminal are for the benchmark, which then ends the child.
	cmd.SysProcAttr.Setpgid = true
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		cmd.Wait() // how it ends is no matter
		close(p.done)
	}()
	return p, nil
}

// wait for the end of a process that has a reason to end; one that doesn't is
// killed.
func (p *process) wait() {
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		p.cmd.Process.Kill()
		<-p.done
	}
}

// ours starts a server and waits until it is ready.
func (e *env) ours(ctx context.Context, s System, target string, o mountOptions) (*mounted, error) {
	// Pipes of our own: those of exec.Cmd are closed when the process has ended,
	// which may be before its last words have been read.
	theirIn, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	out, theirOut, err := os.Pipe()
	if err != nil {
		theirIn.Close()
		in.Close()
		return nil, err
	}
	cmd := exec.Command(e.program, ServerCommand)
	cmd.Stdin, cmd.Stdout = theirIn, theirOut
	p, err := startProcess(cmd)
	theirIn.Close()
	theirOut.Close()
	if err != nil {
		in.Close()
		out.Close()
		return nil, err
	}
	server := &server{process: p, in: in, out: out, encode: json.NewEncoder(in), decode: json.NewDecoder(out)}
	stop := context.AfterFunc(ctx, func() { in.Close() })
	_, err = server.ask(serverRequest{
		Source: e.data, Target: target, Map: ids(), Backend: idmount.Backend(s.Kind),
		Transport: s.Transport, Cache: s.Cache, NoPass: s.NoPass, Descriptors: o.descriptors,
	})
	stop()
	if err != nil {
		server.end()
		return nil, err
	}
	return &mounted{
		root:   target,
		pid:    cmd.Process.Pid,
		counts: func() (map[string]uint64, error) { return server.ask("counts") },
		end: func() error {
			err := unmount(target)
			server.end()
			return err
		},
	}, nil
}

// server is this end of one.
type server struct {
	*process
	in, out *os.File
	encode  *json.Encoder
	decode  *json.Decoder
}

func (s *server) ask(what any) (map[string]uint64, error) {
	if err := s.encode.Encode(what); err != nil {
		return nil, errEnded
	}
	var reply serverReply
	if err := s.decode.Decode(&reply); err != nil {
		return nil, errEnded
	}
	if reply.Error != "" {
		return nil, errors.New(reply.Error)
	}
	return reply.Requests, nil
}

// end lets the server unmount, if that has not been done, and end.
func (s *server) end() {
	s.in.Close()
	s.wait()
	s.out.Close()
}

// peer starts another program and waits until its mount is there.
func (e *env) peer(ctx context.Context, s System, target string, o mountOptions) (*mounted, error) {
	program, err := exec.LookPath(s.Kind)
	if err != nil {
		return nil, errors.New("not installed")
	}
	var before unix.Stat_t
	if err := unix.Stat(target, &before); err != nil {
		return nil, &os.PathError{Op: "stat", Path: target, Err: err}
	}
	cmd := exec.Command(program, e.peerArguments(s, target)...)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGTERM}
	p, err := startProcess(cmd)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*mounted, error) {
		unmount(target)
		p.cmd.Process.Signal(unix.SIGTERM)
		p.wait()
		if said := strings.TrimSpace(output.String()); said != "" {
			err = fmt.Errorf("%w: %s", err, said)
		}
		return nil, err
	}
	if o.descriptors > 0 {
		limit := unix.Rlimit{Cur: o.descriptors, Max: o.descriptors}
		if err := unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
			return fail(err)
		}
	}
	deadline := time.After(10 * time.Second)
	for {
		var st unix.Stat_t
		if err := unix.Stat(target, &st); err == nil && st.Dev != before.Dev {
			break
		}
		select {
		case <-p.done:
			return fail(errEnded)
		case <-ctx.Done():
			return fail(ctx.Err())
		case <-deadline:
			return fail(errors.New("no mount appears"))
		case <-time.After(200 * time.Microsecond):
		}
	}
	return &mounted{
		root: target,
		pid:  cmd.Process.Pid,
		end: func() error {
			err := unmount(target)
			p.wait()
			return err
		},
	}, nil
}

// peerArguments make a peer do what ours does, as far as it can: bindfs moves
// one user and group, fuse-overlayfs shows its upper layer over an empty one.
func (e *env) peerArguments(s System, target string) []string {
	if s.Kind == Bindfs {
		args := []string{"-f", "-o", "allow_other", "--map=1000/101000:@1000/@101000"}
		if s.Multi {
			args = append(args, "--multithreaded")
		}
		return append(args, e.data, target)
	}
	work := filepath.Join(filepath.Dir(e.data), "work")
	os.Mkdir(work, 0o755)
	return []string{"-f", "-o", fmt.Sprintf("allow_other,lowerdir=%s,upperdir=%s,workdir=%s,uidmapping=%[4]s,gidmapping=%[4]s",
		e.empty, e.data, work, "0:0:1:1000:101000:1000"), target}
}

// unmount takes a mount away; one that stays in use is detached.
func unmount(target string) error {
	var err error
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if err = unix.Unmount(target, unix.UMOUNT_NOFOLLOW); err != unix.EBUSY {
			break
		}
	}
	if err == unix.EBUSY {
		err = unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if err == nil || err == unix.EINVAL { // EINVAL: not mounted any more
		return nil
	}
	return &os.PathError{Op: "umount", Path: target, Err: err}
}
