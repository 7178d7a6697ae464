package fusefs

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/test/testenv"
)

// whoami answers a LOOKUP with the ids that the thread has in it.
type whoami struct {
	fuse.RawFileSystem
	seen string
}

func (w *whoami) Lookup(cancel, *fuse.InHeader, string, *fuse.EntryOut) fuse.Status {
	w.seen = threadIDs()
	return fuse.ENOENT
}

// threadIDs is "fsuid:fsgid groups" of the calling thread.
func threadIDs() string {
	text, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return err.Error()
	}
	var uid, gid, groups string
	for line := range strings.Lines(string(text)) {
		name, rest, _ := strings.Cut(line, ":")
		switch f := strings.Fields(rest); name {
		case "Uid":
			uid = f[3]
		case "Gid":
			gid = f[3]
		case "Groups":
			groups = strings.Join(f, ",")
		}
	}
	return fmt.Sprintf("%s:%s %s", uid, gid, groups)
}

func TestCallers(t *testing.T) {
	testenv.RequireRoot(t)
	m, err := idmap.Parse([]string{"u:1000:101000:10", "g:2000:102000:10"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	// Somebody with groups, of which the map has the first two.
	somebody := exec.Command("sleep", "100")
	somebody.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{
		Uid: 101000, Gid: 102000, Groups: []uint32{102001, 102002, 4000},
	}}
	if err := somebody.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		somebody.Process.Kill()
		somebody.Wait()
	}()
	fs, err := New(openSource(t), Options{Map: m, AsCallers: true})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.close()
	before := threadIDs()
	for _, tc := range []struct {
		name     string
		uid, gid uint32
		pid      int
		want     string
	}{
		{"mapped", 101000, 102000, somebody.Process.Pid, "1000:2000 2001,2002"},
		{"user unmapped", 5000, 102000, somebody.Process.Pid, "65534:2000 2001,2002"},
		{"group unmapped", 101001, 5000, somebody.Process.Pid, "1001:65534 2001,2002"},
		{"gone", 101000, 102000, 0, "1000:2000 "},
	} {
		inner := &whoami{}
		c := &callers{RawFileSystem: inner, f: fs}
		h := &fuse.InHeader{Caller: fuse.Caller{Owner: fuse.Owner{Uid: tc.uid, Gid: tc.gid}, Pid: uint32(tc.pid)}}
		if status := c.Lookup(nil, h, "x", nil); status != fuse.ENOENT {
			t.Errorf("%s: status %v", tc.name, status)
		}
		if inner.seen != tc.want {
			t.Errorf("%s: runs as %q, want %q", tc.name, inner.seen, tc.want)
		}
		if after := threadIDs(); after != before {
			t.Errorf("%s: afterwards %q, before %q", tc.name, after, before)
		}
	}
	if !fs.passOff.Load() {
		t.Error("passthrough is on: it opens files as the server")
	}
}

// TestCallersNotWith is about what would mix up callers.
func TestCallersNotWith(t *testing.T) {
	for _, o := range []Options{{Relay: true, AsCallers: true}, {Cache: Cache{Mode: CacheExclusive}, AsCallers: true}} {
		if _, err := New(openSource(t), o); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
}

func openSource(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}
