package fusefs

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/idmap"
)

// The benchmarks call the file system as a connection does, without a kernel
// before it: they are about its own work on the hottest requests.

// benchFS shows a new directory with one file and one of its attributes.
func benchFS(b *testing.B) (f *FS, dir string) {
	b.Helper()
	f, dir = newBenchFS(b)
	b.Cleanup(f.close)
	return f, dir
}

// servedFS is benchFS with a kernel behind it, which passthrough takes.
func servedFS(b *testing.B) *FS {
	b.Helper()
	f, _ := newBenchFS(b)
	tree := serve(b, f)
	b.Cleanup(func() {
		tree.Close()
		f.Wait()
	})
	return f
}

func newBenchFS(b *testing.B) (f *FS, dir string) {
	b.Helper()
	dir = b.TempDir()
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, make([]byte, 4096), 0o644); err != nil {
		b.Fatal(err)
	}
	if err := unix.Lsetxattr(path, "user.bench", []byte("value"), 0); err != nil {
		b.Fatal(err)
	}
	source, err := os.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	m, err := idmap.Parse([]string{"b:0:0:1", "b:1000:101000:1000"}, nil)
	if err != nil {
		b.Fatal(err)
	}
	if f, err = New(source, Options{Map: m}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { source.Close() })
	b.ReportAllocs()
	return f, dir
}

func benchLookup(b *testing.B, f *FS, name string) uint64 {
	var out fuse.EntryOut
	if s := f.Lookup(nil, &fuse.InHeader{NodeId: fuse.FUSE_ROOT_ID}, name, &out); s != fuse.OK {
		b.Fatalf("look up %s: %v", name, s)
	}
	return out.NodeId
}

func BenchmarkLookup(b *testing.B) {
	f, _ := benchFS(b)
	for b.Loop() {
		benchLookup(b, f, "file")
	}
}

// BenchmarkLookupForget has the node made and thrown away each time.
func BenchmarkLookupForget(b *testing.B) {
	f, _ := benchFS(b)
	for b.Loop() {
		f.Forget(benchLookup(b, f, "file"), 1)
	}
}

// BenchmarkLookupParallel is about the locks of the tables.
func BenchmarkLookupParallel(b *testing.B) {
	f, dir := benchFS(b)
	for i := range 64 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	b.RunParallel(func(p *testing.PB) {
		for i := 0; p.Next(); i++ {
			var out fuse.EntryOut
			if s := f.Lookup(nil, &fuse.InHeader{NodeId: fuse.FUSE_ROOT_ID}, fmt.Sprint(i%64), &out); s != fuse.OK {
				b.Errorf("look up %d: %v", i%64, s)
				return
			}
		}
	})
}

func BenchmarkGetattr(b *testing.B) {
	f, _ := benchFS(b)
	in, out := fuse.GetAttrIn{}, fuse.AttrOut{}
	in.NodeId = benchLookup(b, f, "file")
	for b.Loop() {
		if s := f.GetAttr(nil, &in, &out); s != fuse.OK {
			b.Fatal(s)
		}
	}
}

func BenchmarkGetxattr(b *testing.B) {
	f, _ := benchFS(b)
	h := fuse.InHeader{NodeId: benchLookup(b, f, "file")}
	buf := make([]byte, 256)
	for b.Loop() {
		if n, s := f.GetXAttr(nil, &h, "user.bench", buf); s != fuse.OK || n != 5 {
			b.Fatal(n, s)
		}
	}
}

func BenchmarkOpenRelease(b *testing.B) {
	f := servedFS(b)
	in, out := fuse.OpenIn{}, fuse.OpenOut{}
	in.NodeId = benchLookup(b, f, "file")
	release := fuse.ReleaseIn{InHeader: in.InHeader}
	for b.Loop() {
		if s := f.Open(nil, &in, &out); s != fuse.OK {
			b.Fatal(s)
		}
		release.Fh = out.Fh
		f.Release(nil, &release)
	}
}

func BenchmarkCreateUnlink(b *testing.B) {
	f := servedFS(b)
	in := fuse.CreateIn{Flags: unix.O_WRONLY | unix.O_CREAT, Mode: unix.S_IFREG | 0o644}
	in.NodeId = fuse.FUSE_ROOT_ID
	for b.Loop() {
		var out fuse.CreateOut
		if s := f.Create(nil, &in, "new", &out); s != fuse.OK {
			b.Fatal(s)
		}
		release := fuse.ReleaseIn{Fh: out.Fh, Flags: in.Flags}
		release.NodeId = out.NodeId
		f.Release(nil, &release)
		if s := f.Unlink(nil, &in.InHeader, "new"); s != fuse.OK {
			b.Fatal(s)
		}
		f.Forget(out.NodeId, 1)
	}
}

// BenchmarkReaddirplus is for one entry of a directory of a thousand.
func BenchmarkReaddirplus(b *testing.B) {
	f, dir := benchFS(b)
	for i := range 1000 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	f.keepDirs = true
	buf := make([]byte, 1<<20)
	in := fuse.ReadIn{Size: uint32(len(buf))}
	in.NodeId = fuse.FUSE_ROOT_ID
	const entries = 1003
	for i := 0; b.Loop(); i++ {
		if i%entries != 0 {
			continue
		}
		in.Offset = 0
		out := fuse.NewDirEntryList(buf, 0)
		if s := f.ReadDirPlus(nil, &in, out); s != fuse.OK {
			b.Fatal(s)
		}
		f.streams.drop(nil)
	}
}

func BenchmarkMkdirRmdir(b *testing.B) {
	f, _ := benchFS(b)
	in := fuse.MkdirIn{Mode: 0o755}
	in.NodeId = fuse.FUSE_ROOT_ID
	for b.Loop() {
		var out fuse.EntryOut
		if s := f.Mkdir(nil, &in, "new", &out); s != fuse.OK {
			b.Fatal(s)
		}
		if s := f.Rmdir(nil, &in.InHeader, "new"); s != fuse.OK {
			b.Fatal(s)
		}
		f.Forget(out.NodeId, 1)
	}
}

// BenchmarkCounting is what the counting of requests adds to one.
func BenchmarkCounting(b *testing.B) {
	var n Requests
	c := &counting{RawFileSystem: fuse.NewDefaultRawFileSystem(), n: &n}
	b.ReportAllocs()
	for b.Loop() {
		c.Access(nil, nil)
	}
}
