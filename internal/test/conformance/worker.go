package conformance

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/test/testenv"
)

// A worker runs cases on one processor, with an agent for each caller and, for
// a FUSE backend, a mount of its own. Agents and server inherit the processor:
// a request is a sleep and a wake-up of either, and across processors that
// takes twice as long as the case.
type worker struct {
	cpu    int
	agents map[string]*testenv.Agent
	mount  string // by the backend in question

	noticed time.Duration // from a Change to what the caller does then
}

// maxWorkers bounds the agents: each worker has a dozen.
const maxWorkers = 4

func startWorkers(t testing.TB, m *Map) chan *worker {
	t.Helper()
	cpus := processors(t)
	idle := make(chan *worker, len(cpus))
	for _, cpu := range cpus {
		w := &worker{cpu: cpu, agents: map[string]*testenv.Agent{}}
		w.pinned(t, func() {
			for _, c := range Callers {
				w.agents[c.Name] = testenv.StartAgent(t, c.Make(m))
			}
		})
		idle <- w
	}
	return idle
}

func processors(t testing.TB) []int {
	t.Helper()
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	var cpus []int
	for cpu := 0; len(cpus) < min(set.Count(), maxWorkers); cpu++ {
		if set.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	return cpus
}

// pinned runs f on the worker's processor, as do the processes that f starts.
func (w *worker) pinned(t testing.TB, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, own unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	own.Set(w.cpu)
	if err := unix.SchedSetaffinity(0, &own); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.SchedSetaffinity(0, &before); err != nil {
			t.Error(err)
		}
	}()
	f()
}

// each calls f for every worker; none may be at work.
func (b *bench) each(t testing.TB, f func(*worker)) {
	t.Helper()
	for range cap(b.workers) {
		w := <-b.workers
		w.pinned(t, func() { f(w) })
		b.workers <- w
	}
}
