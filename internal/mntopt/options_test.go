package mntopt

import (
	"errors"
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
	for _, list := range []string{"map=b:0:1:1", "remount,ro", "bind", "rbind", `context="a,b`, `context=a"b`, "context", "recursive=yes", "map", "ro=vfs"} {
		if o, err := Parse(list); err == nil {
			t.Errorf("%q: no error, but %+v", list, o)
		}
	}
	if _, err := ParseList("ro,rbind"); !errors.Is(err, ErrBind) {
		t.Errorf("rbind: %v, want ErrBind", err)
	}
}

// TestSource asks what is left of the source's own flags. The lists of mount(8) are
// those that util-linux 2.38 makes of "defaults", "suid,dev,exec" and so on.
func TestSource(t *testing.T) {
	const ro, suid, dev = unix.MOUNT_ATTR_RDONLY, unix.MOUNT_ATTR_NOSUID, unix.MOUNT_ATTR_NODEV
	for _, tt := range []struct {
		list   string
		caller Caller
		want   Options
	}{
		{"rw", User, Options{Clear: ro}},
		{"rw", Mount8, Options{}},
		{"rw,suid,dev", Fuse8, Options{}},
		{"defaults", User, Options{}},
		{"rw,suid,dev,exec,symfollow,atime,diratime", Mount8, Options{}},
		{"rw,noexec,nosuid,nodev,user,nofail,_netdev", Mount8, Options{Set: suid | dev | unix.MOUNT_ATTR_NOEXEC}},
		{"ro,rw", Mount8, Options{}},
		{"rw,ro", Mount8, Options{Set: ro}},
		{"nosuid,suid", Mount8, Options{}},
		{"noatime,atime", Mount8, Options{}},
		{"rw,relatime", Mount8, Options{Clear: unix.MOUNT_ATTR__ATIME}},
		{"rw,remount", Mount8, Options{Clear: ro}},
		{"remount,exec,rw", Mount8, Options{Clear: ro | unix.MOUNT_ATTR_NOEXEC}},
		{"rw,remount,suid,dev", Fuse8, Options{Clear: ro}},
		{"user", User, Options{Set: suid | dev | unix.MOUNT_ATTR_NOEXEC}},
		{"user", Mount8, Options{}}, // it has listed them already
		{"relatime,norelatime", User, Options{}},
		{"noatime,norelatime", User, Options{Set: unix.MOUNT_ATTR_NOATIME, Clear: unix.MOUNT_ATTR__ATIME}},
		{"strictatime,nostrictatime", User, Options{}},
		{"norelatime,nostrictatime", User, Options{}},
		{"auto,noauto,nouser,group=x,uhelper=a,helper=b,comment=c,x-systemd.automount,X-mount.mkdir=0755", Mount8, Options{}},
	} {
		l, err := ParseHelper(tt.list, tt.caller, false)
		if err != nil {
			t.Errorf("%q: %v", tt.list, err)
			continue
		}
		if diff := cmp.Diff(tt.want, l.Mount); diff != "" {
			t.Errorf("%q of caller %d (-want +got):\n%s", tt.list, tt.caller, diff)
		}
	}
}

func TestList(t *testing.T) {
	const context = `context="system_u:object_r:container_file_t:s0:c1,c2"`
	got, err := ParseList(`ro,map="u:1:2:1,g:1:2:1",backend=relay,recursive,map=/proc/1/ns/user,sync,async,lazytime,remount`)
	if err != nil {
		t.Fatal(err)
	}
	want := List{
		Mount:    Options{Set: unix.MOUNT_ATTR_RDONLY},
		Own:      map[string][]string{"map": {"u:1:2:1,g:1:2:1", "/proc/1/ns/user"}, "backend": {"relay"}, "recursive": {""}},
		Remount:  true,
		NoEffect: []string{"sync", "lazytime"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	o, err := Parse(context + ",nosuid,rootcontext=a:b:c:s0")
	if err != nil {
		t.Fatal(err)
	}
	wantLabels := Labels{Context: "system_u:object_r:container_file_t:s0:c1,c2", RootContext: "a:b:c:s0"}
	if o.Labels != wantLabels || o.Set != unix.MOUNT_ATTR_NOSUID {
		t.Errorf("got %+v", o)
	}
	if want := "nosuid," + context + `,rootcontext="a:b:c:s0"`; o.String() != want {
		t.Errorf("String = %s, want %s", o, want)
	}

	l, err := ParseHelper("rw,size=5m,"+context, Mount8, true)
	if err != nil || len(l.NoEffect) != 1 || l.NoEffect[0] != "size=5m" {
		t.Errorf("sloppy: %+v, %v", l, err)
	}
	// mount(8) repeats at a remount what the mount table says.
	l, err = ParseHelper("ro,nosuid,relatime,idmapped,user_id=0,group_id=0,default_permissions,allow_other,max_read=1048576,seclabel,"+context+",remount", Mount8, false)
	if err != nil || !l.Remount || !l.Mount.Labels.IsZero() {
		t.Errorf("remount: %+v, %v", l, err)
	}
}

func TestStringReadsBack(t *testing.T) {
	names := append(slices.Sorted(maps.Keys(known)), "user", `context="a,b"`, "fscontext=c:d")
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
	f.Add(`context="a:b:c:s0:c1,c2",norelatime`)
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
