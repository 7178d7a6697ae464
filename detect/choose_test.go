package detect

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// all is a report in which everything works.
func all() *Report {
	return &Report{
		Path: "/srv", FSType: "ext4", Kernel: "6.12.0",
		MountAPI: yes("open_tree and mount_setattr work"), UserNS: yes("a user namespace can be made"),
		Map: yes("probed without a map"), Idmap: yes("the kernel idmaps ext4"),
		FuseSource: yes("the source is a directory"), FuseDevice: yes("/dev/fuse opens"), Fuse: yes("a FUSE mount works"),
		Relay: yes("the kernel idmaps our FUSE mount"), TranslateMap: yes("probed without a map"),
		Passthrough: yes("works on ext4 with stack depth 1"), StackDepth: 1,
		IOUring: no(nil, "switched off"), FileHandles: yes("ext4 opens by file handle"),
		CoherentCache: yes("changes to ext4 are reported by fanotify"),
		Capabilities:  no(nil, "missing: CAP_LEASE"), MissingCapabilities: []string{"CAP_LEASE"},
		RootAccess: yes("the source refuses root nothing (tried on /srv)"), Access: DaemonAccess,
		SlowRequests: slowRequests(0),
	}
}

func errno(op string, e unix.Errno) error { return &sys.Error{Op: op, Path: "/srv", Err: e} }

func TestChoose(t *testing.T) {
	overlay := func(r *Report) {
		r.Idmap = no(errno("mount_setattr", unix.EINVAL), "the kernel has no idmapped mounts for overlay")
	}
	oldFuse := func(r *Report) { r.Relay = no(nil, "the kernel's FUSE cannot be idmapped (no ALLOW_IDMAP)") }
	noFuse := func(r *Report) {
		r.FuseDevice = no(errno("open", unix.ENOENT), "there is no /dev/fuse")
		r.Fuse, r.Relay = unknown(nil, "not tried without FUSE"), unknown(nil, "not tried without FUSE")
	}
	longMap := func(r *Report) { r.Map = no(nil, "the map is too long for the kernel") }
	noRight := func(r *Report) {
		r.MountAPI = unknown(errno("mount_setattr", unix.EPERM), "the mount calls of the kernel could not be tried")
		r.Fuse = unknown(errno("fsopen", unix.EPERM), "a FUSE mount could not be made")
	}
	squashed := func(r *Report) {
		r.RootAccess, r.Access = no(errno("faccessat", unix.EACCES), "the source refuses root"), CallerAccess
	}
	standIn := func(r *Report) { r.TranslateMap = no(nil, "translate cannot do this map") }
	type change = func(*Report)
	for _, tt := range []struct {
		name    string
		changes []change
		want    Backend
		backend Backend
		text    string // of the reason or the error
	}{
		{"native", nil, Auto, Native, "native: the kernel idmaps ext4"},
		{"empty is auto", nil, "", Native, "native: the kernel idmaps ext4"},
		{"relay", []change{overlay}, Auto, Relay,
			"native: the kernel has no idmapped mounts for overlay (mount_setattr: invalid argument); relay: the kernel idmaps our FUSE mount"},
		{"translate", []change{overlay, oldFuse}, Auto, Translate,
			"native: the kernel has no idmapped mounts for overlay (mount_setattr: invalid argument); relay: the kernel's FUSE cannot be idmapped (no ALLOW_IDMAP); translate: a FUSE mount works"},
		{"long map", []change{longMap}, Auto, Translate,
			"native: the map is too long for the kernel; relay: the map is too long for the kernel; translate: a FUSE mount works"},
		{"callers", []change{overlay, squashed}, Auto, Translate,
			"native: the kernel has no idmapped mounts for overlay (mount_setattr: invalid argument); relay: operations have to run as their callers, and with relay the kernel does not say who they are; translate: a FUSE mount works"},
		{"callers, forced relay", []change{overlay, squashed}, Relay, "",
			"backend relay for /srv: operations have to run as their callers, and with relay the kernel does not say who they are: not supported here"},
		{"callers, native", []change{squashed}, Auto, Native, "native: the kernel idmaps ext4"},
		{"native needs no FUSE", []change{noFuse}, Auto, Native, "native: the kernel idmaps ext4"},
		{"nothing works", []change{overlay, noFuse}, Auto, "",
			"no backend for /srv: native: the kernel has no idmapped mounts for overlay (mount_setattr: invalid argument); relay: there is no /dev/fuse (open: no such file or directory); translate: there is no /dev/fuse (open: no such file or directory): not supported here"},
		{"nothing is known", []change{noRight}, Auto, "",
			"no backend for /srv: native: the mount calls of the kernel could not be tried (mount_setattr: operation not permitted); relay: a FUSE mount could not be made (fsopen: operation not permitted); translate: a FUSE mount could not be made (fsopen: operation not permitted): not supported here"},
		{"forced", nil, Translate, Translate, "translate: asked for: a FUSE mount works"},
		{"forced, impossible", []change{overlay}, Native, "",
			"backend native for /srv: the kernel has no idmapped mounts for overlay (mount_setattr: invalid argument): not supported here"},
		{"forced relay, old kernel", []change{oldFuse}, Relay, "",
			"backend relay for /srv: the kernel's FUSE cannot be idmapped (no ALLOW_IDMAP): not supported here"},
		{"forced translate, stand-in", []change{standIn}, Translate, "",
			"backend translate for /srv: translate cannot do this map: not supported here"},
		{"forced, unknown", []change{noRight}, Native, Native,
			"native: asked for, and not known to work: the mount calls of the kernel could not be tried (mount_setattr: operation not permitted)"},
		{"no backend", nil, "fast", "", `backend "fast": must be auto, native, relay or translate`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := all()
			for _, c := range tt.changes {
				c(r)
			}
			got, err := Choose(r, tt.want)
			text := got.Reason
			if err != nil {
				text = err.Error()
				if tt.name != "no backend" && !errors.Is(err, ErrUnsupported) {
					t.Errorf("error %v is not ErrUnsupported", err)
				}
			}
			if got.Backend != tt.backend || text != tt.text {
				t.Errorf("got %q: %s\nwant %q: %s", got.Backend, text, tt.backend, tt.text)
			}
		})
	}
}

func TestReportJSON(t *testing.T) {
	r := all()
	r.Idmap = no(errno("mount_setattr", unix.EINVAL), "no")
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	const want = `"idmap":{"verdict":"no","reason":"no (mount_setattr: invalid argument)","error":"mount_setattr /srv: invalid argument"}`
	if !strings.Contains(string(data), want) {
		t.Errorf("%s lacks %s", data, want)
	}
	// A report that was read back leads to the same choice.
	var again Report
	if err := json.Unmarshal(data, &again); err != nil {
		t.Fatal(err)
	}
	first, err1 := Choose(r, Auto)
	second, err2 := Choose(&again, Auto)
	if diff := cmp.Diff(first, second); diff != "" || err1 != nil || err2 != nil {
		t.Errorf("choices differ, %v, %v:\n%s", err1, err2, diff)
	}
	if err := json.Unmarshal([]byte(`{"idmap":{"verdict":"maybe"}}`), &again); err == nil {
		t.Error("the verdict maybe was accepted")
	}
}

func TestWriteText(t *testing.T) {
	r := all()
	r.Idmap = no(errno("mount_setattr", unix.EINVAL), "the kernel has no idmapped mounts for overlay")
	r.Protocol = newProtocol(7, 41, flagPosixACL|flagAllowIdmap|1<<60)
	var b strings.Builder
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	want := `/srv: ext4, Linux 6.12.0

BACKEND         WORKS   REASON
native          no      the kernel has no idmapped mounts for overlay (mount_setattr: invalid argument)
relay           yes     the kernel idmaps our FUSE mount
translate       yes     a FUSE mount works

PROBE           RESULT  REASON
mount api       yes     open_tree and mount_setattr work
user namespace  yes     a user namespace can be made
map             yes     probed without a map
idmap           no      the kernel has no idmapped mounts for overlay (mount_setattr: invalid argument)
fuse source     yes     the source is a directory
fuse device     yes     /dev/fuse opens
fuse            yes     a FUSE mount works
fuse idmap      yes     the kernel idmaps our FUSE mount
translated map  yes     probed without a map
passthrough     yes     works on ext4 with stack depth 1
io_uring        no      switched off
file handles    yes     ext4 opens by file handle
coherent cache  yes     changes to ext4 are reported by fanotify
capabilities    no      missing: CAP_LEASE
root access     yes     the source refuses root nothing (tried on /srv)
slow requests   yes     the kernel has no limit for them

FUSE protocol 7.41: POSIX_ACL ALLOW_IDMAP bit60
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}
}

func TestParseBackend(t *testing.T) {
	for _, name := range []string{"auto", "native", "relay", "translate"} {
		if b, err := ParseBackend(name); err != nil || string(b) != name {
			t.Errorf("ParseBackend(%q) = %q, %v", name, b, err)
		}
	}
	if b, err := ParseBackend(""); err != nil || b != Auto {
		t.Errorf(`ParseBackend("") = %q, %v`, b, err)
	}
	if _, err := ParseBackend("fuse"); err == nil {
		t.Error("ParseBackend(fuse): no error")
	}
}

func TestMissing(t *testing.T) {
	if diff := cmp.Diff([]string{"CAP_MKNOD", "CAP_SETFCAP"}, missing(^uint64(1<<unix.CAP_MKNOD|1<<unix.CAP_SETFCAP))); diff != "" {
		t.Error(diff)
	}
	if got := missing(^uint64(0)); got != nil {
		t.Errorf("missing of all: %v", got)
	}
}

func TestSlowRequests(t *testing.T) {
	for limit, want := range map[uint16]Verdict{0: Yes, 15: No, 65535: Yes} {
		if got := slowRequests(limit); got.Verdict != want {
			t.Errorf("limit of %d s: %v, want %v", limit, got, want)
		}
	}
}
