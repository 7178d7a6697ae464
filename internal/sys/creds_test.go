package sys

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/test/testenv"
)

// threadRights are the rights of the calling thread for the source.
func threadRights(t testing.TB) Creds {
	t.Helper()
	text, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		t.Error(err)
	}
	var c Creds
	var skip uint32
	for line := range strings.Lines(string(text)) {
		name, rest, _ := strings.Cut(line, ":")
		switch name {
		case "Uid":
			fmt.Sscan(rest, &skip, &skip, &skip, &c.FsUID)
		case "Gid":
			fmt.Sscan(rest, &skip, &skip, &skip, &c.FsGID)
		case "CapEff":
			fmt.Sscanf(strings.TrimSpace(rest), "%x", &c.Caps)
		}
	}
	return c
}

// onOwnThread runs fn on a thread that nobody uses afterwards, with and without
// capabilities that follow the ids.
func onOwnThread(t testing.TB, stay bool, fn func(base Creds, permitted CapSet)) {
	t.Helper()
	effective, permitted, err := ThreadCaps()
	if err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 || !effective.Has(unix.CAP_SETUID) || !effective.Has(unix.CAP_SETPCAP) {
		testenv.Skip(t, testenv.NeedRoot, "it takes CAP_SETUID and CAP_SETPCAP")
	}
	before := capsStay.Load()
	defer capsStay.Store(before)
	capsStay.Store(stay)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // to its end
		if stay {
			if err := unix.Prctl(unix.PR_SET_SECUREBITS, 1<<2, 0, 0, 0); err != nil {
				t.Error(err)
				return
			}
		}
		base := Creds{Caps: effective.Without(unix.CAP_FSETID)}
		if errno := capset(base.Caps, permitted); errno != 0 {
			t.Error(errno)
			return
		}
		fn(base, permitted)
	}()
	<-done
}

func TestRun(t *testing.T) {
	for _, stay := range []bool{false, true} {
		onOwnThread(t, stay, func(base Creds, permitted CapSet) {
			more := base.Caps | 1<<unix.CAP_FSETID
			for _, want := range []Creds{
				base,
				{Caps: more},
				{FsUID: 1000, FsGID: 1000, Caps: base.Caps},
				{FsUID: 1000, FsGID: 1001, Caps: more},
				{FsUID: 1000, Caps: base.Caps},
				{FsGID: 1000, Caps: base.Caps},
				{FsGID: 1000, Caps: more},
			} {
				var got Creds
				errno := want.Run(base, permitted, func() unix.Errno {
					got = threadRights(t)
					return unix.ENOTEMPTY
				})
				if errno != unix.ENOTEMPTY {
					t.Errorf("%+v: %v", want, errno)
				}
				if d := cmp.Diff(want, got); d != "" {
					t.Errorf("stay %v: in the call (-want +got):\n%s", stay, d)
				}
				if d := cmp.Diff(base, threadRights(t)); d != "" {
					t.Errorf("stay %v: after %+v (-want +got):\n%s", stay, want, d)
				}
			}
			for _, c := range []Creds{{FsUID: 1000, FsGID: 1000, Caps: more}, {Caps: more}} {
				func() {
					defer func() { recover() }()
					c.Run(base, permitted, func() unix.Errno { panic("in a call") })
				}()
				if d := cmp.Diff(base, threadRights(t)); d != "" {
					t.Errorf("stay %v: after a panic in a call as %+v (-want +got):\n%s", stay, c, d)
				}
			}
		})
	}
}

func BenchmarkRun(b *testing.B) {
	nothing := func() unix.Errno { return 0 }
	for _, stay := range []bool{false, true} {
		b.Run(fmt.Sprintf("stay=%v", stay), func(b *testing.B) {
			onOwnThread(b, stay, func(base Creds, permitted CapSet) {
				c := Creds{FsUID: 1000, FsGID: 1000, Caps: base.Caps}
				b.ReportAllocs()
				for b.Loop() {
					c.Run(base, permitted, nothing)
				}
			})
		})
	}
}
