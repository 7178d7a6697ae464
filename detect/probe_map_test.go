package detect

import (
	"encoding/json"
	"os/exec"
	"syscall"
	"testing"

	"github.com/idmount/idmount/internal/test/testenv"
)

func TestThrowawayMap(t *testing.T) {
	for _, test := range []struct{ own, want string }{
		{"         0          0 4294967295\n", "0 100000 65536\n"},
		{"0 1000 1\n1 100000 65536\n", "0 65536 1\n"}, // unshare -U --map-auto -r
		{"0 1000 1\n", "0 0 1\n"},
		{"0 500000 100000\n100000 700000 65536\n", "0 100000 65536\n"},
		{"0 500000 120000\n", "0 119999 1\n"},
		{"", "0 100000 65536\n"},
	} {
		if got := throwawayMapIn(test.own); got != test.want {
			t.Errorf("in %q: %q, want %q", test.own, got, test.want)
		}
	}
}

// The probe's own map fits into the user namespace that detect runs in.
func TestProbeInUserNamespace(t *testing.T) {
	testenv.RequireRoot(t)
	for _, test := range []struct {
		name string
		ids  []syscall.SysProcIDMap
	}{
		{"one id", []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1000, Size: 1}}},
		{"as unshare --map-auto -r", []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1000, Size: 1}, {ContainerID: 1, HostID: 100000, Size: 65536}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd := exec.Command(testenv.Binary(t), "detect", "--json", "/")
			cmd.Dir = "/"
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
				UidMappings: test.ids, GidMappings: test.ids,
				Credential: &syscall.Credential{}, GidMappingsEnableSetgroups: true,
			}
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			var r Report
			if err := json.Unmarshal(out, &r); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if r.UserNS.Verdict != Yes {
				t.Errorf("user namespace: %s: %s", r.UserNS.Verdict, r.UserNS.Reason)
			}
		})
	}
}
