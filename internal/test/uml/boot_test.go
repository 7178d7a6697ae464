package uml

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/idmount/idmount/internal/test/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// guestEnv is set in the guest, where the test binary runs TestInGuest alone.
const guestEnv = "IDMOUNT_UML_GUEST=1"

func fetch(t *testing.T, suite string) *Kernel {
	t.Helper()
	testenv.RequireRoot(t) // the guest has the rights of this process
	ctx, cancel := context.WithTimeout(t.Context(), DefaultTimeout)
	defer cancel()
	k, err := Fetch(ctx, suite, "")
	testenv.Fetched(t, err, ErrUnavailable)
	return k
}

func TestBoot(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range Suites {
		if s.Name != "bullseye" && s.Name != "trixie" {
			continue // one of each side of the C library's change will do
		}
		t.Run(s.Name, func(t *testing.T) {
			k := fetch(t, s.Name)
			r, err := k.Run(t.Context(), Options{
				Command: []string{program, "-test.run=^TestInGuest$", "-test.v"},
				Env:     []string{guestEnv, "WANT_RELEASE=" + s.Kernel + "."},
				Modules: []string{"fuse"},
			})
			if err != nil {
				t.Fatal(err)
			}
			if r.ExitCode != 0 || !strings.Contains(r.Output, "--- PASS: TestInGuest") {
				t.Errorf("guest exited with %d:\n%s\nconsole:\n%s", r.ExitCode, r.Output, r.Console)
			}
			t.Logf("kernel %s: %v", k.Release, r.Elapsed)
		})
	}
}

// TestInGuest is the guest's side of TestBoot.
func TestInGuest(t *testing.T) {
	if os.Getenv("IDMOUNT_UML_GUEST") == "" {
		return // not the guest of TestBoot
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	if want := os.Getenv("WANT_RELEASE"); !strings.HasPrefix(string(release), want) {
		t.Errorf("release is %s, want %s", release, want)
	}
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Error(err)
	} else {
		f.Close()
	}
	if err := os.WriteFile("/etc/idmount-uml-test", nil, 0o600); err == nil {
		t.Error("the host's root is writable")
	}
	for _, dir := range []string{"/tmp", "/run", "/var/tmp", "/mnt"} {
		if err := os.WriteFile(dir+"/idmount-uml-test", nil, 0o600); err != nil {
			t.Error(err)
		}
	}
}

func TestRun(t *testing.T) {
	k := fetch(t, "bullseye")
	share := t.TempDir()
	disk := t.TempDir() + "/disk"
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := k.Run(t.Context(), Options{
		Command: []string{"sh", "-c", `echo "$A"; pwd; echo text >` + GuestShare + `/file; cat /sys/block/ubda/size; sleep 1000 & exit 7`},
		Env:     []string{"A=it's"},
		Dir:     "/usr",
		Share:   share,
		Disks:   []string{disk},
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := "it's\n/usr\n2048\n"; r.Output != want || r.ExitCode != 7 {
		t.Errorf("output %q, exit code %d, want %q and 7", r.Output, r.ExitCode, want)
	}
	if text, err := os.ReadFile(share + "/file"); err != nil || string(text) != "text\n" {
		t.Errorf("shared file has %q, %v", text, err)
	}
}

func TestHungGuestIsKilled(t *testing.T) {
	k := fetch(t, "bullseye")
	var r Result
	var err error
	for timeout := 8 * time.Second; r.Output == "" && timeout < DefaultTimeout; timeout *= 2 { // until it comes to speak
		r, err = k.Run(t.Context(), Options{Command: []string{"sh", "-c", "echo before; sleep 10000"}, Timeout: timeout})
	}
	if !errors.Is(err, ErrHung) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want ErrHung and DeadlineExceeded", err)
	}
	if r.Output != "before\n" || r.ExitCode != -1 {
		t.Errorf("output %q, exit code %d, want what was said before, and -1", r.Output, r.ExitCode)
	}
}
