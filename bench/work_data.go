package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const chunk = 128 << 10

// dataWorkloads move data of large files.
func dataWorkloads() []*workload {
	return []*workload{
		{
			name: "read", shared: makeLargeFile,
			rows: []Row{
				{Name: "read-seq", Title: "read 128 KiB in order, cached"},
				{Name: "read-random", Title: "read 4 KiB at random, cached"},
				{Name: "mmap-random", Title: "read a mapped page at random, cached"},
			},
			run: readLarge,
		},
		{
			name: "write",
			rows: []Row{
				{Name: "write-seq", Title: "write 128 KiB in order to a new file"},
				{Name: "write-random", Title: "write 4 KiB at random"},
			},
			run: writeLarge,
		},
		{
			name: "direct", programs: []string{"fio"},
			rows: []Row{
				{Name: "direct-read", Title: "read 4 KiB at random, O_DIRECT (fio)"},
				{Name: "direct-write", Title: "write 4 KiB at random, O_DIRECT (fio)"},
			},
			own: makeDirectFile,
			run: directIO,
		},
	}
}

func (e *env) largeSize() int { return e.size(64<<20, 1<<30) }

func makeLargeFile(ctx context.Context, e *env) error {
	return e.make(filepath.Join(e.data, "shared", "large"), func(path string) error {
		return fill(ctx, path, e.largeSize())
	})
}

// fill makes a file whose blocks are there.
func fill(ctx context.Context, path string, size int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(i*7 + 1) // no page begins with 0
	}
	for at := 0; at < size && ctx.Err() == nil; at += len(data) {
		if _, err := f.Write(data[:min(len(data), size-at)]); err != nil {
			return err
		}
	}
	return errors.Join(ctx.Err(), f.Sync())
}

func readLarge(_ context.Context, p *place, m *meter) error {
	path := filepath.Join(p.shared, "large")
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	size := p.env.largeSize()
	buf := make([]byte, chunk)
	// The first pass brings it into the cache, wherever that is.
	for _, timed := range []bool{false, true} {
		m.begin()
		for at := 0; at < size; at += chunk {
			if n, err := unix.Pread(fd, buf, int64(at)); err != nil || n != chunk {
				return &os.PathError{Op: "read", Path: path, Err: errors.Join(err, sized(n, chunk))}
			}
		}
		if timed {
			m.end("read-seq", size/chunk)
		}
	}
	random := newRandom()
	times := p.env.size(10_000, 50_000)
	m.begin()
	for range times {
		at := random.IntN(size/pageSize) * pageSize
		if n, err := unix.Pread(fd, buf[:pageSize], int64(at)); err != nil || n != pageSize {
			return &os.PathError{Op: "read", Path: path, Err: errors.Join(err, sized(n, pageSize))}
		}
	}
	m.end("read-random", times)

	mapped, err := unix.Mmap(fd, 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return &os.PathError{Op: "mmap", Path: path, Err: err}
	}
	defer unix.Munmap(mapped)
	sum := 0
	m.begin()
	for range times {
		sum += int(mapped[random.IntN(size/pageSize)*pageSize])
	}
	m.end("mmap-random", times)
	if sum == 0 {
		return &os.PathError{Op: "read", Path: path, Err: errors.New("the mapped file is empty")}
	}
	return nil
}

// newRandom is the same for every system and round.
func newRandom() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

func writeLarge(_ context.Context, p *place, m *meter) error {
	path := filepath.Join(p.own, "large")
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return &os.PathError{Op: "create", Path: path, Err: err}
	}
	defer unix.Close(fd)
	size := p.env.size(32<<20, 512<<20)
	buf := make([]byte, chunk)
	m.begin()
	for at := 0; at < size; at += chunk {
		if n, err := unix.Pwrite(fd, buf, int64(at)); err != nil || n != chunk {
			return &os.PathError{Op: "write", Path: path, Err: errors.Join(err, sized(n, chunk))}
		}
	}
	m.end("write-seq", size/chunk)
	random := newRandom()
	times := p.env.size(2000, 10_000)
	m.begin()
	for range times {
		at := random.IntN(size/pageSize) * pageSize
		if n, err := unix.Pwrite(fd, buf[:pageSize], int64(at)); err != nil || n != pageSize {
			return &os.PathError{Op: "write", Path: path, Err: errors.Join(err, sized(n, pageSize))}
		}
	}
	m.end("write-random", times)
	if err := unix.Unlink(path); err != nil {
		return &os.PathError{Op: "unlink", Path: path, Err: err}
	}
	return nil
}

func (e *env) directSize() int { return e.size(16<<20, 64<<20) }

func makeDirectFile(ctx context.Context, e *env, dir string) error {
	return e.make(filepath.Join(dir, "direct"), func(path string) error {
		return fill(ctx, path, e.directSize())
	})
}

func directIO(ctx context.Context, p *place, m *meter) error {
	for _, job := range []struct{ row, rw string }{{"direct-read", "randread"}, {"direct-write", "randwrite"}} {
		ops := p.env.size(500, 3000)
		before, err := countsOf(m)
		if err != nil {
			return err
		}
		out, err := exec.CommandContext(ctx, "fio", "--name=direct", "--filename="+filepath.Join(p.own, "direct"),
			"--rw="+job.rw, "--bs=4k", "--direct=1", "--ioengine=psync", "--randrepeat=1", "--output-format=json",
			fmt.Sprintf("--size=%d", p.env.directSize()), fmt.Sprintf("--number_ios=%d", ops)).Output()
		if err != nil {
			return programError("fio", err)
		}
		after, err := countsOf(m)
		if err != nil {
			return err
		}
		mean, err := fioLatency(out, job.rw == "randwrite")
		if err != nil {
			return err
		}
		m.record(job.row, sample{value: mean, ops: ops, requests: difference(after, before)})
	}
	return nil
}

func countsOf(m *meter) (map[string]uint64, error) {
	if m.counts == nil {
		return nil, nil
	}
	return m.counts()
}

// fioLatency reads the mean completion latency, in nanoseconds.
func fioLatency(report []byte, write bool) (float64, error) {
	type side struct {
		Latency struct {
			Mean float64 `json:"mean"`
		} `json:"clat_ns"`
	}
	var r struct {
		Jobs []struct {
			Read  side `json:"read"`
			Write side `json:"write"`
		} `json:"jobs"`
	}
	if err := json.Unmarshal(report, &r); err != nil {
		return 0, fmt.Errorf("read fio's report: %w", err)
	}
	if len(r.Jobs) != 1 {
		return 0, fmt.Errorf("read fio's report: %d jobs, want 1", len(r.Jobs))
	}
	mean := r.Jobs[0].Read.Latency.Mean
	if write {
		mean = r.Jobs[0].Write.Latency.Mean
	}
	if mean <= 0 {
		return 0, errors.New("read fio's report: it has no latency")
	}
	return mean, nil
}
