package conformance

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/test/testenv"
)

// A Scenario is one case for every caller, map, source and backend.
type Scenario struct {
	// Name is GROUP/PARAMETERS.
	Name string
	// Setup prepares the directory of the case, which is there already with
	// owner AA and mode 0777.
	Setup func(*Disk)
	// Change, if not nil, changes the directory of the case on the source, as root, when
	// the caller has been there already: Before is what it did, in the agent.
	Before func(*Env)
	Change func(*Disk)
	// Op is what the caller does. It runs in the agent.
	Op func(*Env)
	// Slow ones are left out of a quick run.
	Slow bool
}

// An Env is what Op works with: the directory of the case on the mount, as the
// working directory, and who the caller is.
type Env struct {
	Map    *Map
	Caller testenv.Caller
	result Result
	seen   map[string]int
	counts map[string]int
	fds    []int
	lost   bool // it could not enter the directory
}

// Did records the outcome of one call.
func (e *Env) Did(what string, err error) { e.Saw(what, ErrText(err)) }

// count notes the outcome of one of many calls, for counted.
func (e *Env) count(what string, err error) {
	if e.counts == nil {
		e.counts = map[string]int{}
	}
	e.counts[what+": "+ErrText(err)]++
}

// counted records how many calls have had which outcome.
func (e *Env) counted() {
	var calls []string
	for what := range e.counts {
		calls = append(calls, what)
	}
	slices.Sort(calls)
	for _, what := range calls {
		e.Saw("times "+what, fmt.Sprint(e.counts[what]))
	}
	clear(e.counts)
}

// Saw records something seen.
func (e *Env) Saw(what, value string) {
	e.seen[what]++
	if n := e.seen[what]; n > 1 {
		what = fmt.Sprintf("%s (%d)", what, n)
	}
	e.result.add("op "+what, value)
}

// Open opens, records the outcome, and returns the descriptor or -1. It is
// closed after the scenario.
func (e *Env) Open(what, path string, flags int, mode uint32) int {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, mode)
	e.Did(what, err)
	if err != nil {
		return -1
	}
	e.fds = append(e.fds, fd)
	return fd
}

// Mode records the mode and the size of a file as the caller sees it.
func (e *Env) Mode(what, path string) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		e.Did(what, err)
		return
	}
	e.Saw(what, fmt.Sprintf("%#o size %d", st.Mode, st.Size))
}

// UID is the number the caller has to use for the user that the mount shows
// for a role. 'X' is a user outside the map.
func (e *Env) UID(role byte) int { return e.id(role, (*Map).ViewUID) }

// GID is UID for groups.
func (e *Env) GID(role byte) int { return e.id(role, (*Map).ViewGID) }

func (e *Env) id(role byte, view func(*Map, byte) uint32) int {
	switch role {
	case '-':
		return -1
	case 'X':
		return int(InNamespaces(e.Caller, Foreign))
	case 'Y':
		return inEveryNamespace
	}
	return int(InNamespaces(e.Caller, view(e.Map, role)))
}

// caseRequest asks an agent to run one case.
type caseRequest struct {
	Scenario, Map, Caller, Dir string
	Before                     bool // Before alone, or else Op
}

// begun is the case of an agent whose Before has been run.
var begun *Env

// runHandler is what agents run, by the name "conformance".
func runHandler(arg json.RawMessage) (any, error) {
	var q caseRequest
	if err := json.Unmarshal(arg, &q); err != nil {
		return nil, err
	}
	s := scenarioByName[strings.TrimSuffix(q.Scenario, " (unchanged)")]
	if s == nil {
		return nil, fmt.Errorf("no scenario %q", q.Scenario)
	}
	m := MapByName(q.Map)
	e := begun
	begun = nil
	if e == nil {
		e = &Env{Map: m, Caller: CallerByName(q.Caller).Make(m), seen: map[string]int{}}
		unix.Umask(0)
		if err := unix.Chdir(q.Dir); err != nil {
			e.Did("enter the directory", err)
			e.lost = true
		}
	}
	if q.Before {
		if begun = e; !e.lost {
			s.Before(e)
		}
		return Result(nil), nil
	}
	if !e.lost {
		s.Op(e)
	}
	for _, fd := range e.fds {
		unix.Close(fd)
	}
	_ = unix.Chdir("/")
	unix.Umask(0)
	e.result.snapshot("caller sees", q.Dir)
	return e.result, nil
}

var scenarioByName = map[string]*Scenario{}

// Scenarios are all, in the order of their groups.
var Scenarios = func() []*Scenario {
	var all []*Scenario
	for _, group := range [][]*Scenario{
		createScenarios(), accessScenarios(), metaScenarios(), chownScenarios(), nameScenarios(),
		killScenarios(), capabilityScenarios(), xattrScenarios(), aclScenarios(), fileScenarios(),
		useScenarios(), rareScenarios(), stickyScenarios(),
	} {
		all = append(all, group...)
	}
	for _, s := range slices.Concat(all, ChangedScenarios) {
		if scenarioByName[s.Name] != nil {
			panic("conformance: two scenarios " + s.Name)
		}
		scenarioByName[s.Name] = s
	}
	return all
}()
