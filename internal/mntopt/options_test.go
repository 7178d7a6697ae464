package mntopt

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		list   string
		want   Options
		string string
	}{
		{"", Options{}, ""},
		{"defaults,,", Options{}, ""},
		{"ro", Options{Set: unix.MOUNT_ATTR_RDONLY}, "ro"},
		{"ro,rw", Options{Clear: unix.MOUNT_ATTR_RDONLY}, "rw"},
		{"rw,ro", Options{Set: unix.MOUNT_ATTR_RDONLY}, "ro"},
		{"nosuid,nodev,noexec,nosymfollow",
			Options{Set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOSYMFOLLOW},
			"nosuid,nodev,noexec,nosymfollow"},
		{"noatime", Options{Set: unix.MOUNT_ATTR_NOATIME, Clear: unix.MOUNT_ATTR__ATIME}, "noatime"},
		{"noatime,strictatime", Options{Set: unix.MOUNT_ATTR_STRICTATIME, Clear: unix.MOUNT_ATTR__ATIME}, "strictatime"},
		{"strictatime,atime", Options{Clear: unix.MOUNT_ATTR__ATIME}, "relatime"},
		{"nodiratime,noatime",
			Options{Set: unix.MOUNT_ATTR_NODIRATIME | unix.MOUNT_ATTR_NOATIME, Clear: unix.MOUNT_ATTR__ATIME}, "noatime,nodiratime"},
		{"diratime", Options{Clear: unix.MOUNT_ATTR_NODIRATIME}, "diratime"},
		{"shared,rslave", Options{Propagation: unix.MS_SLAVE, PropagationRecursive: true}, "rslave"},
		{" ro , private ", Options{Set: unix.MOUNT_ATTR_RDONLY, Propagation: unix.MS_PRIVATE}, "ro,private"},
	} {
		t.Run(tt.list, func(t *testing.T) {
			got, err := Parse(tt.list)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Parse (-want +got):\n%s", diff)
			}
			if got.String() != tt.string {
				t.Errorf("String = %q, want %q", got, tt.string)
			}
		})
	}
}

func TestParseError(t *testing.T) {
	_, err := Parse("ro,uid=5,nosuid")
	if want := `mount option "uid=5": unknown option of a bind mount`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestStringReadsBack(t *testing.T) {
	names := slices.Sorted(maps.Keys(known))
	rapid.Check(t, func(t *rapid.T) {
		list := strings.Join(rapid.SliceOf(rapid.SampledFrom(names)).Draw(t, "options"), ",")
		o, err := Parse(list)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(o.String())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(o, again); diff != "" {
			t.Errorf("%q: %q reads back differently (-first +again):\n%s", list, o, diff)
		}
		if o.Set&o.Clear&^uint64(unix.MOUNT_ATTR__ATIME) != 0 {
			t.Errorf("%q sets and clears the same bits: %+v", list, o)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add("ro,nosuid")
	f.Fuzz(func(t *testing.T, list string) {
		o, err := Parse(list)
		if err != nil {
			return
		}
		if again, err := Parse(o.String()); err != nil || again != o {
			t.Errorf("%q: %q reads back as %+v, %v", list, o, again, err)
		}
	})
}
