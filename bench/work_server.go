package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// descriptorLimit is what many systems give a service, and not always let it raise.
const descriptorLimit = 20_000

// serverWorkloads are about the mount itself and the process behind it.
func serverWorkloads() []*workload {
	return []*workload{
		{
			name:    "mount",
			rows:    []Row{{Name: "mount", Title: "mount"}, {Name: "umount", Title: "unmount"}},
			systems: func(s System) bool { return s.Kind != Source },
			alone: func(ctx context.Context, e *env, s System, m *meter) error {
				m.begin()
				mount, err := e.mount(ctx, s, mountOptions{})
				if err != nil {
					return err
				}
				m.end("mount", 1)
				m.begin()
				err = mount.end()
				m.end("umount", 1)
				return err
			},
		},
		{
			name: "memory", once: true, fuseOnly: true, shared: makeMany,
			// How requests come does not matter for what is remembered of them.
			systems: func(s System) bool { return s.Transport == "" && !s.NoPass && s.Cache != "none" && s.Cache != "ttl" },
			rows: []Row{
				{Name: "memory", Title: "memory of the server, an inode", Unit: Bytes},
				{Name: "memory-after", Title: "the same after the kernel has dropped its caches", Unit: Bytes},
			},
			alone: memory,
		},
	}
}

func (e *env) manyFiles() int { return e.size(200_000, 2_000_000) }

func makeMany(ctx context.Context, e *env) error {
	return e.make(filepath.Join(e.data, "shared", "many"), func(path string) error {
		return makeEmptyFiles(ctx, path, e.manyFiles(), 1000)
	})
}

// memory walks more files than a server may have descriptors, and looks at the
// server before, after, and when the kernel has forgotten them.
func memory(ctx context.Context, e *env, s System, m *meter) (err error) {
	mount, err := e.mount(ctx, s, mountOptions{descriptors: descriptorLimit})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mount.end()) }()
	// A first request: what a server needs in any case isn't an inode's.
	if _, err := os.Lstat(filepath.Join(mount.root, "shared")); err != nil {
		return err
	}
	before, err := inspect(mount.pid)
	if err != nil {
		return err
	}
	start := m.now()
	n, err := walk(ctx, filepath.Join(mount.root, "shared", "many"))
	took := m.now().Sub(start)
	if err != nil {
		return fmt.Errorf("after %d inodes: %w", n, err)
	}
	if want := e.manyFiles() + (e.manyFiles()+999)/1000; n != want {
		return fmt.Errorf("%d entries, want %d", n, want)
	}
	after, err := inspect(mount.pid)
	if err != nil {
		return err
	}
	// The kernel tells of what it forgets bit by bit, and a server may give
	// memory back some time later.
	for range 3 {
		if err := dropCaches(ctx); err != nil {
			return err
		}
	}
	dropped, few := after, (after.resident-before.resident)/10
	for deadline := time.Now().Add(10 * time.Second); ctx.Err() == nil && time.Now().Before(deadline); {
		last := dropped.resident
		time.Sleep(500 * time.Millisecond)
		now, err := inspect(mount.pid)
		if err != nil {
			return err
		}
		dropped.resident = min(dropped.resident, now.resident)
		dropped.descriptors = now.descriptors
		if dropped.resident-before.resident < few && last-dropped.resident < few/10 {
			break // no more to come
		}
	}
	extra := map[string]float64{
		"inodes":         float64(n),
		"walk_ns":        float64(took.Nanoseconds()),
		"rss_before":     float64(before.resident),
		"rss_after":      float64(after.resident),
		"rss_dropped":    float64(dropped.resident),
		"fds_after":      float64(after.descriptors),
		"fds_dropped":    float64(dropped.descriptors),
		"fd_limit":       descriptorLimit,
		"rss_peak_bytes": float64(after.peak),
	}
	m.record("memory", sample{value: max(0, float64(after.resident-before.resident)) / float64(n), ops: n, extra: extra})
	m.record("memory-after", sample{value: max(0, float64(dropped.resident-before.resident)) / float64(n), ops: n})
	return ctx.Err()
}

// processState is what the kernel says of a process.
type processState struct {
	resident, peak int64 // bytes
	descriptors    int
}

func inspect(pid int) (processState, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	var p processState
	text, err := os.ReadFile(dir + "/status")
	if err != nil {
		return p, err
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		fields := strings.Fields(value)
		if len(fields) == 0 {
			continue
		}
		kilobytes, _ := strconv.ParseInt(fields[0], 10, 64)
		switch name {
		case "VmRSS":
			p.resident = kilobytes << 10
		case "VmHWM":
			p.peak = kilobytes << 10
		}
	}
	if p.resident == 0 {
		return p, fmt.Errorf("%s/status: %w", dir, unix.ESRCH)
	}
	entries, err := os.ReadDir(dir + "/fd")
	p.descriptors = len(entries)
	return p, err
}
