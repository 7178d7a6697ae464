package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/test/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// The Go benchmarks below are for comparing two versions of the code:
//
//	go test -run '^$' -bench . -count 10 ./bench | tee new.txt
//	benchstat old.txt new.txt
//	benchstat -col /on new.txt

// each runs a benchmark on the plain source and on every backend that works
// here, on ext4. The map keeps 0, so that root may create files.
func each(b *testing.B, run func(b *testing.B, dir string)) {
	testenv.RequireRoot(b)
	m, err := idmap.New([]idmap.Extent{{Disk: 0, View: 0, Count: 1}, {Disk: 1000, View: 101000, Count: 1000}},
		[]idmap.Extent{{Disk: 0, View: 0, Count: 1}, {Disk: 1000, View: 101000, Count: 1000}})
	if err != nil {
		b.Fatal(err)
	}
	source := testenv.Source(b, "ext4")
	b.Run("on=source", func(b *testing.B) { run(b, source) })
	for _, backend := range []idmount.Backend{idmount.Native, idmount.Relay, idmount.Translate} {
		target := testenv.Dir(b)
		_, err := idmount.Mount(context.Background(), source, target,
			idmount.Options{Map: m, Backend: backend, Daemon: testenv.Binary(b), Stacking: "0"})
		if err != nil {
			b.Logf("%s: %v", backend, err)
			continue
		}
		b.Run(fmt.Sprintf("on=%s", backend), func(b *testing.B) { run(b, target) })
		if err := idmount.Unmount(target, false); err != nil {
			b.Fatal(err)
		}
	}
}

func write(b *testing.B, path string, size int) {
	b.Helper()
	if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkStat(b *testing.B) {
	each(b, func(b *testing.B, dir string) {
		path := filepath.Join(dir, "file")
		write(b, path, 1)
		var st unix.Stat_t
		for b.Loop() {
			if err := unix.Lstat(path, &st); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkOpenClose(b *testing.B) {
	each(b, func(b *testing.B, dir string) {
		path := filepath.Join(dir, "file")
		write(b, path, 1)
		for b.Loop() {
			fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				b.Fatal(err)
			}
			unix.Close(fd)
		}
	})
}

func BenchmarkCreateUnlink(b *testing.B) {
	each(b, func(b *testing.B, dir string) {
		path := filepath.Join(dir, "new")
		data := make([]byte, 4096)
		for b.Loop() {
			if err := os.WriteFile(path, data, 0o644); err != nil {
				b.Fatal(err)
			}
			if err := unix.Unlink(path); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkRead128K(b *testing.B) { transfer(b, 128<<10, unix.Pread) }
func BenchmarkWrite4K(b *testing.B)  { transfer(b, 4<<10, unix.Pwrite) }

// transfer moves size bytes of a file of 64 MiB at a time, in order.
func transfer(b *testing.B, size int, call func(int, []byte, int64) (int, error)) {
	const length = 64 << 20
	each(b, func(b *testing.B, dir string) {
		path := filepath.Join(dir, "big")
		write(b, path, length)
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			b.Fatal(err)
		}
		defer unix.Close(fd)
		buf := make([]byte, size)
		b.SetBytes(int64(size))
		var at int64
		for b.Loop() {
			if n, err := call(fd, buf, at); err != nil || n != size {
				b.Fatal(n, err)
			}
			at = (at + int64(size)) % length
		}
	})
}

func BenchmarkWalk1000(b *testing.B) {
	each(b, func(b *testing.B, dir string) {
		tree := filepath.Join(dir, "tree")
		if _, err := os.Stat(tree); err != nil {
			for d := range 10 {
				sub := filepath.Join(tree, fmt.Sprint(d))
				if err := os.MkdirAll(sub, 0o755); err != nil {
					b.Fatal(err)
				}
				for f := range 100 {
					write(b, filepath.Join(sub, fmt.Sprint(f)), 1)
				}
			}
		}
		for b.Loop() {
			seen := 0
			err := filepath.WalkDir(tree, func(_ string, e os.DirEntry, err error) error {
				if err != nil {
					return err
				}
				seen++
				_, err = e.Info()
				return err
			})
			if err != nil || seen != 1011 {
				b.Fatal(seen, err)
			}
		}
	})
}
