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
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/test/testenv"
	"github.com/idmount/idmount/internal/test/uml"
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

// casesFromEnv is about how many cases make test-kernels gives each source.
func casesFromEnv(t *testing.T) int {
	switch text := os.Getenv("IDMOUNT_KERNELS_CASES"); text {
	case "":
		return 40
	case "all":
		return allCases
	default:
		n, err := strconv.Atoi(text)
		must(t, err)
		return n
	}
}

// allJobs are those of make test-kernels.
func allJobs(suites []string, cases int) []job {
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
// any other run is compared with them. A whole run of all cases knows which of the
// limits hide nothing any more.
func TestKernels(t *testing.T) {
	testenv.RequireRoot(t)
	if os.Getenv(taskEnv) != "" {
		return
	}
	jobs := quickJobs()
	var suites []string
	list := os.Getenv("IDMOUNT_KERNELS")
	switch list {
	case "":
	case "all":
		suites = []string{"bullseye", "bookworm", "trixie", "host", "sid"}
	default:
		suites = strings.Split(list, ",")
	}
	every := false // case
	if suites != nil {
		cases := casesFromEnv(t)
		jobs, every = allJobs(suites, cases), cases == allCases
	}
	sources := os.Getenv("IDMOUNT_KERNELS_SOURCES")
	narrowed := sources != ""
	if narrowed {
		jobs = narrow(t, jobs, strings.Split(sources, ","))
	}
	dir := testenv.Dir(t)
	oracles := filepath.Join(dir, "oracle")
	must(t, os.Mkdir(oracles, 0o755))
	var cases []suiteCase
	for _, j := range jobs {
		cases = append(cases, pickCases(j.Cases, j.Server)...)
	}
	record(t, oracles, cases)

	done := make([][]Cell, len(jobs)) // the tables' order is theirs
	places := make(chan struct{}, 2)
	t.Run("on", func(t *testing.T) {
		for i, j := range jobs {
			t.Run(j.name(), func(t *testing.T) {
				t.Parallel()
				places <- struct{}{}
				defer func() { <-places }()
				j.Oracle = oracles
				var err error
				done[i], err = j.run(t, dir)
				if suites == nil { // the others were asked for
					testenv.Fetched(t, err, uml.ErrUnavailable)
				}
				for _, c := range done[i] {
					if c.Result == Fail {
						t.Errorf("%s: %s on %s: %s", c.Kernel, c.Backend, c.Source, c.Reason)
					}
				}
				must(t, err)
			})
		}
	})
	cells := slices.Concat(done...)
	if len(cells) == 0 && !t.Failed() {
		testenv.Skip(t, testenv.NeedGuest, "no kernel could be had")
	}
	complete := true
	for i, j := range jobs {
		if done[i] == nil && suites == nil {
			continue // skipped
		}
		for _, what := range j.without(done[i]) {
			complete = false
			t.Errorf("%s: no cell of %s", j.name(), what)
		}
	}
	fmt.Print(table(cells))
	whole := list == "all" && !narrowed && complete
	checkDocument(t, cells, whole && os.Getenv("IDMOUNT_KERNELS_WRITE") == "1")
	if whole && every && !t.Failed() {
		for _, reason := range unusedRules(limits, cells) {
			t.Errorf("known difference not seen any more: %s", reason)
		}
	}
}

func (j job) name() string { return strings.TrimSuffix(j.suite+" "+j.Server, " ") }

// narrow leaves the jobs that have one of the sources.
func narrow(t *testing.T, jobs []job, sources []string) []job {
	has := func(j job, source string) bool {
		return slices.ContainsFunc(makersOf(j.Server), func(m maker) bool { return m.name == source })
	}
	for _, s := range sources {
		if !slices.ContainsFunc(jobs, func(j job) bool { return has(j, s) }) {
			t.Fatalf("no kernel in question has a source %s", s)
		}
	}
	jobs = slices.DeleteFunc(jobs, func(j job) bool {
		return !slices.ContainsFunc(sources, func(s string) bool { return has(j, s) })
	})
	for i := range jobs {
		jobs[i].Sources = sources
	}
	return jobs
}

// without lists what the task asks for and cells lack.
func (k task) without(cells []Cell) []string {
	var lacks []string
	for _, m := range makersOf(k.Server) {
		if k.Sources != nil && !slices.Contains(k.Sources, m.name) {
			continue
		}
		for _, backend := range backends {
			if !slices.ContainsFunc(cells, func(c Cell) bool {
				return c.Source == m.name && (c.Backend == backend || c.Backend == "")
			}) {
				lacks = append(lacks, backend+" "+m.name)
			}
		}
	}
	return lacks
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
