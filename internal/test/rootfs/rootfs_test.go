package rootfs

import (
	"bytes"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/detect"
	"github.com/idmount/idmount/internal/test/testenv"
	"github.com/idmount/idmount/internal/test/treecmp"
)

// installScript is run by container root in the mounted root.
//
//go:embed testdata/install.sh
var installScript string

// runs are the mounts that the installation is made on. The first that can be
// made is what the others are compared with: the native one, where there is one.
var runs = []struct {
	backend idmount.Backend
	source  string
	cache   idmount.Cache
}{
	{backend: idmount.Native, source: "ext4"},
	{backend: idmount.Relay, source: "ext4"},
	{backend: idmount.Translate, source: "ext4"},
	{backend: idmount.Translate, source: "ext4", cache: idmount.Cache{Mode: idmount.CacheExclusive}},
	{backend: idmount.Relay, source: "overlay"},
	{backend: idmount.Translate, source: "overlay"},
	{backend: idmount.Translate, source: "ext2"},
}

// dated are the files whose content says when they were written, or which inode
// they belong to, and the reason why it does.
var dated = map[string]string{
	"var/log/dpkg.log":             "each line begins with the time",
	"var/log/alternatives.log":     "each line begins with the time",
	"var/cache/ldconfig/aux-cache": "inode numbers and change times of all libraries",
}

// scans are what the same tree looks like from everywhere.
type scans struct {
	disk      treecmp.Tree // the source, by the initial namespace's root
	view      treecmp.Tree // the mount, by the initial namespace's root
	container treecmp.Tree // the mount, by container root
}

func TestDebianRoot(t *testing.T) {
	testenv.RequireRoot(t)
	backends := wantedBackends(t)
	tar := archive(t)
	var reference *scans
	var referenceName string
	for _, r := range runs {
		name := string(r.backend) + " on " + r.source
		if r.cache != (idmount.Cache{}) {
			name += ", " + r.cache.String()
		}
		if !slices.Contains(backends, r.backend) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			work := testenv.Dir(t)
			src := sources[r.source](t, work, tar)
			dst := filepath.Join(work, "root")
			mkdir(t, dst)
			mountIDs(t, src, dst, idmount.Options{Backend: r.backend, Cache: r.cache})

			got := install(t, src, dst, r.cache.Mode == idmount.CacheExclusive)
			if t.Failed() {
				return // differences would only repeat it
			}
			if reference == nil {
				reference, referenceName = got, name
				return
			}
			options := treecmp.Options{IgnoreContent: dated}
			if r.source == "overlay" {
				// Copy-up gives every changed name an inode of its own
				// (overlayfs with index=off, the default).
				options.IgnoreHardLinks = true
			}
			treecmp.Report(t, "disk after "+referenceName+" and after "+name, treecmp.Diff(reference.disk, got.disk, options))
			treecmp.Report(t, "view of "+referenceName+" and of "+name, treecmp.Diff(reference.view, got.view, options))
			treecmp.Report(t, "container's view of "+referenceName+" and of "+name, treecmp.Diff(reference.container, got.container, options))
		})
	}
}

// wantedBackends reads $IDMOUNT_BACKENDS, a list with commas; without it all are
// wanted.
func wantedBackends(t testing.TB) []idmount.Backend {
	t.Helper()
	list := os.Getenv("IDMOUNT_BACKENDS")
	if list == "" {
		return []idmount.Backend{idmount.Native, idmount.Relay, idmount.Translate}
	}
	var backends []idmount.Backend
	for name := range strings.SplitSeq(list, ",") {
		b, err := detect.ParseBackend(name)
		if err != nil {
			t.Fatalf("IDMOUNT_BACKENDS=%s: %v", list, err)
		}
		backends = append(backends, b)
	}
	return backends
}

// install installs the packages in the root that src shows at dst and checks
// what does not take a second mount to compare with.
//
// With alone nobody else uses the source: times of change are the mount's own, and
// it has files open for writing, which nobody else can run then.
func install(t *testing.T, src, dst string, alone bool) *scans {
	// As it was unpacked: container root sees what the disk has.
	fresh := treecmp.MustScan(t, src)
	treecmp.Report(t, "disk and container's view of the fresh root", treecmp.Diff(fresh, containerScan(t, dst), treecmp.Options{Mtime: true}))

	if out, err := containerShell(t, dst, installScript); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	got := &scans{disk: treecmp.MustScan(t, src), view: treecmp.MustScan(t, dst), container: containerScan(t, dst)}
	// The kernel gives the file capabilities of one's own root as revision 2
	// to both, so even these agree byte by byte.
	treecmp.Report(t, "disk and container's view", treecmp.Diff(got.disk, got.container, treecmp.Options{Mtime: !alone}))
	checkOwners(t, dst, got)
	checkPackages(t, dst, got)
	checkExec(t, src, dst, alone)
	return got
}

// checkOwners demands that every file belongs to a user and a group of the
// container's own databases, and that the mount shows them where the map puts
// them.
func checkOwners(t *testing.T, dst string, s *scans) {
	users, groups := database(t, dst, "/etc/passwd"), database(t, dst, "/etc/group")
	for _, p := range s.container.Paths() {
		e := s.container[p]
		if name, ok := users[e.UID]; !ok || name == "nobody" {
			t.Errorf("%s belongs to user %d (%q) in the container", p, e.UID, name)
		}
		if name, ok := groups[e.GID]; !ok || name == "nogroup" {
			t.Errorf("%s belongs to group %d (%q) in the container", p, e.GID, name)
		}
		if v := s.view[p]; v.UID != first+e.UID || v.GID != first+e.GID {
			t.Errorf("%s is %d:%d in the container, but the mount shows %d:%d", p, e.UID, e.GID, v.UID, v.GID)
		}
	}
}

// database reads the ids of a file such as /etc/passwd in the container.
func database(t *testing.T, root, file string) map[uint32]string {
	t.Helper()
	out, err := containerShell(t, root, "cat "+file)
	if err != nil {
		t.Fatal(err)
	}
	names := map[uint32]string{}
	for line := range strings.Lines(out) {
		fields := strings.Split(line, ":")
		var id uint32
		if len(fields) < 3 {
			t.Fatalf("%s: line %q", file, line)
		}
		if _, err := fmt.Sscan(fields[2], &id); err != nil {
			t.Fatalf("%s: line %q: %v", file, line, err)
		}
		names[id] = fields[0]
	}
	return names
}

// checkPackages looks at the files that the packages were chosen for, and at
// some that every Debian has.
func checkPackages(t *testing.T, dst string, s *scans) {
	out, err := containerShell(t, dst, "getent group plocate | cut -d: -f3; getent group mail | cut -d: -f3; getent group shadow | cut -d: -f3")
	if err != nil {
		t.Fatal(err)
	}
	var plocate, mail, shadow uint32
	if _, err := fmt.Sscan(out, &plocate, &mail, &shadow); err != nil {
		t.Fatalf("group ids %q: %v", out, err)
	}
	for _, want := range []struct {
		path     string
		mode     uint32
		uid, gid uint32
	}{
		{"usr/bin/dotlockfile", unix.S_IFREG | 0o2755, 0, mail},
		{"usr/bin/plocate", unix.S_IFREG | 0o2755, 0, plocate},
		{"usr/bin/passwd", unix.S_IFREG | 0o4755, 0, 0},
		{"usr/bin/chage", unix.S_IFREG | 0o2755, 0, shadow},
		{"etc/shadow", unix.S_IFREG | 0o640, 0, shadow},
		{"var/mail", unix.S_IFDIR | 0o2775, 0, mail},
		{"tmp", unix.S_IFDIR | 0o1777, 0, 0},
		{"dev/null", unix.S_IFCHR | 0o666, 0, 0},
		{"home/alice/.profile", unix.S_IFREG | 0o644, 1000, 1000},
	} {
		for side, tree := range map[string]treecmp.Tree{"on disk": s.disk, "in the container": s.container} {
			e, ok := tree[want.path]
			if !ok {
				t.Errorf("%s is missing %s", want.path, side)
			} else if e.Mode != want.mode || e.UID != want.uid || e.GID != want.gid {
				t.Errorf("%s %s: %v %d:%d, want mode %o %d:%d", want.path, side, e.FileMode(), e.UID, e.GID, want.mode, want.uid, want.gid)
			}
		}
	}

	// cap_net_raw, effective: revision 2 where the root id is the reader's own
	// 0, else revision 3 with the root id at its end (capabilities(7)).
	const capability = "security.capability"
	plain := []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	owned := []byte{1, 0, 0, 3, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xa0, 0x86, 1, 0} // 100000
	const ping = "usr/bin/ping"
	for side, v := range map[string]struct{ got, want []byte }{
		"on disk":          {s.disk[ping].Xattrs[capability], plain},
		"in the container": {s.container[ping].Xattrs[capability], plain},
		"in the mount":     {s.view[ping].Xattrs[capability], owned},
	} {
		if !bytes.Equal(v.got, v.want) {
			t.Errorf("capability of %s %s is %x, want %x", ping, side, v.got, v.want)
		}
	}
	if out, err := containerShell(t, dst, "getcap /usr/bin/ping"); err != nil || out != "/usr/bin/ping cap_net_raw=ep\n" {
		t.Errorf("getcap in the container: %q, %v", out, err)
	}
}

// checkExec runs programs with privileges: they have them in the container, and
// give nobody outside anything that is not in the map.
func checkExec(t *testing.T, src, dst string, alone bool) {
	const (
		asUser   = "setpriv --reuid 1000 --regid 1000 --clear-groups "
		withCap  = asUser + "/usr/local/bin/capgrep CapEff /proc/self/status"
		withSUID = asUser + "/usr/local/bin/suid-id -u"
		withSGID = asUser + "/usr/local/bin/sgid-id -g"
		ping     = "set +e; " + asUser + "ping -q -c 1 -W 5 127.0.0.1 >/dev/null 2>&1; echo $?"
		none     = "CapEff:\t0000000000000000\n"
		netRaw   = "CapEff:\t0000000000002000\n"
	)
	for _, tc := range []struct {
		name   string
		shell  func(testing.TB, string, string) (string, error)
		root   string
		script string
		want   string
	}{
		{"file capability in the container", containerShell, dst, withCap, netRaw},
		{"file capability outside the container", initShell, dst, withCap, none},
		// On disk the capability is the initial namespace's own.
		{"file capability on disk", initShell, src, withCap, netRaw},
		// A new network namespace lets nobody ping without cap_net_raw
		// (net.ipv4.ping_group_range is empty); ping's status is then 2.
		{"ping in the container", containerShell, dst, ping, "0\n"},
		{"ping outside the container", initShell, dst, ping, "2\n"},
		{"set-user-ID in the container", containerShell, dst, withSUID, "0\n"},
		{"set-user-ID outside the container", initShell, dst, withSUID, "100000\n"},
		{"set-group-ID in the container", containerShell, dst, withSGID, "8\n"},
		{"set-group-ID outside the container", initShell, dst, withSGID, "100008\n"},
		{"device nodes", containerShell, dst, "echo lost >/dev/null && head -c 3 /dev/zero | od -An -c", "  \\0  \\0  \\0\n"},
		{"dpkg --verify", containerShell, dst, "dpkg --verify", ""},
	} {
		if alone && tc.root == src {
			continue
		}
		got, err := tc.shell(t, tc.root, tc.script)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
		} else if got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}
