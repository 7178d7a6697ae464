package testenv

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/google/go-cmp/cmp"
)

func TestMain(m *testing.M) {
	Handle("status", func(json.RawMessage) (any, error) {
		text, err := os.ReadFile("/proc/thread-self/status")
		return fields(string(text)), err
	})
	Main(m)
}

func fields(status string) map[string]string {
	got := map[string]string{}
	for _, line := range strings.Split(status, "\n") {
		name, value, _ := strings.Cut(line, ":")
		switch name {
		case "Uid", "Gid", "Groups", "CapEff":
			got[name] = strings.Join(strings.Fields(value), " ")
		}
	}
	return got
}

func TestSourceIsFreshAndWritable(t *testing.T) {
	for _, fstype := range Sources {
		t.Run(fstype, func(t *testing.T) {
			dir := Source(t, fstype)
			names, err := os.ReadDir(dir)
			if err != nil || len(names) != 0 {
				t.Errorf("entries %v, %v; want none", names, err)
			}
			if err := os.WriteFile(dir+"/file", []byte("x"), 0o644); err != nil {
				t.Error(err)
			}
			var st unix.Stat_t
			if err := unix.Stat(dir, &st); err != nil || st.Uid != 0 || st.Mode&0o777 != 0o755 {
				t.Errorf("uid %d, mode %o, %v; want 0, 755", st.Uid, st.Mode&0o777, err)
			}
		})
	}
}

func TestAgentIsTheCaller(t *testing.T) {
	for _, tt := range []struct {
		name string
		c    Caller
		want map[string]string
	}{
		{"user", Caller{UID: 1000, GID: 1001, Groups: []uint32{7, 9}},
			map[string]string{"Uid": "1000 1000 1000 1000", "Gid": "1001 1001 1001 1001", "Groups": "7 9", "CapEff": "0000000000000000"}},
		{"user with a capability", Caller{UID: 1000, GID: 1000, Caps: 1 << unix.CAP_CHOWN},
			map[string]string{"Uid": "1000 1000 1000 1000", "Gid": "1000 1000 1000 1000", "Groups": "", "CapEff": "0000000000000001"}},
		{"user of a namespace", Caller{Namespaces: []Namespace{{100000, 65536}}, UID: 5, GID: 6},
			map[string]string{"Uid": "5 5 5 5", "Gid": "6 6 6 6", "Groups": "", "CapEff": "0000000000000000"}},
		{"nested", Caller{Namespaces: []Namespace{{100000, 65536}, {1000, 500}}, Caps: 1 << unix.CAP_FOWNER},
			map[string]string{"Uid": "0 0 0 0", "Gid": "0 0 0 0", "Groups": "", "CapEff": "0000000000000008"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got map[string]string
			if err := StartAgent(t, tt.c).Call("status", nil, &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("status (-want +got):\n%s", diff)
			}
		})
	}
}
