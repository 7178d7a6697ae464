package kernels

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/testenv"
	"github.com/idmount/idmount/internal/uml"
)

// A job is a task and the kernel to do it on: a suite's, or "host" for the one
// that runs.
type job struct {
	suite string
	task
}

// quickJobs are those of a plain `go test`: a kernel without mount_setattr, one
// without passthrough, one with relay and with NFS that squashes root, and 9p,
// which has neither handles nor passthrough.
func quickJobs() []job {
	const cases = 20
	return []job{
		{"bullseye", task{Sources: []string{"ext4", "overlay"}, Cases: cases}},
		{"bookworm", task{Sources: []string{"tmpfs"}, Cases: cases}},
		{"trixie", task{Sources: []string{"overlay"}, Cases: cases}},
		{"trixie", task{Sources: []string{"nfs4-root_squash"}, Server: "root_squash", Cases: cases}},
		{"sid", task{Sources: []string{"9p"}, Server: "9p", Cases: cases}},
	}
}

// allJobs are those of make test-kernels.
func allJobs(suites []string) []job {
	cases := 40
	switch text := os.Getenv("IDMOUNT_KERNELS_CASES"); {
	case text == "all":
		cases = allCases
	default:
		if n, err := strconv.Atoi(text); err == nil {
			cases = n
		}
	}
	var jobs []job
	for _, s := range suites {
		jobs = append(jobs, job{s, task{Cases: cases}})
		if s != "host" {
			for _, server := range servers {
				jobs = append(jobs, job{s, task{Server: server, Cases: cases}})
			}
		}
	}
	return jobs
}

// TestKernels prints the matrix. IDMOUNT_KERNELS is "" for a quick part, "all",
// or a list of suites and "host"; IDMOUNT_KERNELS_SOURCES narrows the sources, and
// of the conformance suite's cases each gets about IDMOUNT_KERNELS_CASES, or all.
// What a guest prints goes to files that IDMOUNT_KERNELS_LOG begins the name of.
// With IDMOUNT_KERNELS_WRITE=1 a whole run writes the tables of docs/kernels.md;
// any other run is compared with them.
func TestKernels(t *testing.T) {
	testenv.RequireRoot(t)
	if os.Getenv(taskEnv) != "" {
		return
	}
	jobs := quickJobs()
	var suites []string
	switch list := os.Getenv("IDMOUNT_KERNELS"); list {
	case "":
	case "all":
		suites = []string{"bullseye", "bookworm", "trixie", "host", "sid"}
	default:
		suites = strings.Split(list, ",")
	}
	if suites != nil {
		jobs = allJobs(suites)
	}
	if list := os.Getenv("IDMOUNT_KERNELS_SOURCES"); list != "" {
		names := strings.Split(list, ",")
		jobs = slices.DeleteFunc(jobs, func(j job) bool {
			return !slices.ContainsFunc(makersOf(j.Server), func(m maker) bool { return slices.Contains(names, m.name) })
		})
		for i := range jobs {
			jobs[i].Sources = names
		}
	}
	dir := testenv.Dir(t)
	oracles := filepath.Join(dir, "oracle")
	must(t, os.Mkdir(oracles, 0o755))
	var cases []suiteCase
	for _, j := range jobs {
		cases = append(cases, pickCases(j.Cases, j.Server)...)
	}
	record(t, oracles, cases)

	var mu sync.Mutex
	done := make([][]Cell, len(jobs)) // the tables' order is theirs
	places := make(chan struct{}, 2)
	var wait sync.WaitGroup
	for i, j := range jobs {
		wait.Add(1)
		places <- struct{}{}
		go func() {
			defer func() { <-places; wait.Done() }()
			j.Oracle = oracles
			got, err := j.run(t, dir)
			mu.Lock()
			defer mu.Unlock()
			done[i] = got
			for _, c := range got {
				if c.Result == Fail {
					t.Errorf("%s: %s on %s: %s", c.Kernel, c.Backend, c.Source, c.Reason)
				}
			}
			switch {
			case errors.Is(err, uml.ErrUnavailable):
				t.Log(err)
			case err != nil:
				t.Errorf("%s: %v", j.suite, err)
			case len(got) == 0:
				t.Errorf("%s: no cell came out of it", j.suite)
			}
		}()
	}
	wait.Wait()
	cells := slices.Concat(done...)
	if len(cells) == 0 && !t.Failed() {
		testenv.Skip(t, testenv.NeedKernel, "no kernel could be had")
	}
	fmt.Print(table(cells))
	checkDocument(t, cells, suites != nil && os.Getenv("IDMOUNT_KERNELS_WRITE") == "1")
}

// run does the task and returns what came of it, in an error's case as far as
// it got.
func (j job) run(t *testing.T, dir string) ([]Cell, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	log := io.Discard
	if name := os.Getenv("IDMOUNT_KERNELS_LOG"); name != "" {
		file, err := os.Create(fmt.Sprintf("%s-%s%s", name, j.suite, j.Server))
		if err != nil {
			return nil, err
		}
		defer file.Close()
		log = file
	}
	started := time.Now()
	limit := 40 * time.Minute
	if j.Cases == allCases {
		limit = 6 * time.Hour
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	var output string
	if j.suite == "host" {
		var u unix.Utsname
		_ = unix.Uname(&u)
		j.Kernel = short(unix.ByteSliceToString(u.Release[:]))
		cmd := exec.CommandContext(ctx, program, "-test.run=^TestGuest$", "-test.v")
		cmd.Dir = "/"
		cmd.Env = append(os.Environ(), taskEnv+"="+j.json(), "IDMOUNT_BINARY="+testenv.Binary(t))
		var out []byte
		out, err = cmd.CombinedOutput()
		output = string(out)
		_, _ = log.Write(out)
	} else {
		var k *uml.Kernel
		if k, err = uml.Fetch(ctx, j.suite, ""); err != nil {
			return nil, err
		}
		j.Kernel = short(k.Release)
		o := uml.Options{
			Command: []string{program, "-test.run=^TestGuest$", "-test.v", "-test.timeout=" + limit.String()},
			Env:     []string{taskEnv + "=" + j.json(), "IDMOUNT_BINARY=" + testenv.Binary(t)},
			Modules: []string{"fuse", "loop", "overlay", "ext4", "xfs", "btrfs", "squashfs", "erofs"},
			Expose:  []string{dir, filepath.Dir(testenv.Binary(t))},
			MemMB:   2048,
			Stdout:  log,
			Timeout: limit,
		}
		switch j.Server {
		case "":
		case "9p":
			n, err := uml.FetchNineP(ctx, "")
			if err != nil {
				return nil, err
			}
			o = n.With(o, ninePDir)
		default:
			n, err := uml.FetchNFS(ctx, "")
			if err != nil {
				return nil, err
			}
			o = n.With(o, uml.NFSOptions{RootSquash: j.Server == "root_squash"})
		}
		var r uml.Result
		r, err = k.Run(ctx, o)
		output = r.Output
		if err == nil && r.ExitCode != 0 {
			err = fmt.Errorf("exit code %d", r.ExitCode)
		}
	}
	t.Logf("%s %s: %v", j.Kernel, j.Server, time.Since(started).Round(time.Second))
	cells, parseErr := parseCells(output)
	if err != nil {
		lines := strings.Split(strings.TrimSpace(output), "\n")
		err = fmt.Errorf("%w: %s", err, strings.Join(lines[max(0, len(lines)-30):], "\n"))
	}
	return cells, errors.Join(err, parseErr)
}

func (j job) json() string {
	text, err := json.Marshal(j.task)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// short is the first two numbers of a kernel's release.
func short(release string) string {
	parts := strings.SplitN(release, ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}
