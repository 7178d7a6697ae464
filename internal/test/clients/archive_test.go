package clients

import (
	_ "embed"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/test/conformance"
	"github.com/idmount/idmount/internal/test/treecmp"
)

// furnish makes a directory with every kind of file and metadata that archives
// can hold, as root on the disk.
func furnish(s *stage, name string) {
	s.Helper()
	d := &conformance.Disk{Dir: filepath.Join(s.disk, name), Map: shift}
	if err := unix.Mkdir(d.Dir, 0o755); err != nil {
		s.Fatal(err)
	}
	d.Mkdir("dir", "AB", 0o2775)
	d.Mkdir("dir/sticky", "BA", 0o1777)
	d.Mkdir("dir/default", "AA", 0o755)
	d.Mkdir("empty", "RR", 0o700)
	d.File("plain", "AA", 0o644)
	d.File("dir/setuid", "RB", 0o4755)
	d.File("dir/setgid", "AB", 0o2755)
	d.File("dir/unreadable", "BB", 0)
	d.File("acl", "AB", 0o640)
	d.File("capable", "RR", 0o755)
	d.File("xattrs", "AA", 0o600)
	d.Link("plain", "dir/linked")
	d.Link("dir/setuid", "dir/sticky/setuid")
	d.Symlink("../plain", "dir/symlink", "AB")
	d.Symlink("nowhere", "dangling", "BB")
	d.Node("fifo", "AA", unix.S_IFIFO|0o620, 0)
	d.Node("null", "RR", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))
	d.Node("loop", "RB", unix.S_IFBLK|0o660, int(unix.Mkdev(7, 200)))
	const access, defaults = "system.posix_acl_access", "system.posix_acl_default"
	user := func(id uint32, perm uint16) conformance.ACLEntry {
		return conformance.ACLEntry{Tag: conformance.ACLUser, Perm: perm, ID: id}
	}
	group := func(id uint32, perm uint16) conformance.ACLEntry {
		return conformance.ACLEntry{Tag: conformance.ACLGroup, Perm: perm, ID: id}
	}
	d.Xattr("acl", access, conformance.ACLXattr(6, 4, 6, 0, user(0, 6), user(1001, 4), group(8, 2)))
	d.Xattr("dir/default", access, conformance.ACLXattr(7, 5, 7, 5, user(1001, 7)))
	d.Xattr("dir/default", defaults, conformance.ACLXattr(7, 0, 5, 0, user(1001, 5), group(1000, 1)))
	d.Xattr("capable", "security.capability", conformance.CapNetRaw(3, 0))
	d.Xattr("xattrs", "user.text", []byte("text"))
	d.Xattr("xattrs", "user.binary", []byte{0, 1, 2, 0xff, '\n', '"', '='})
	d.Xattr("xattrs", "user.empty", nil)
	d.Xattr("dir", "user.of.a.directory", []byte("value"))
	// Data, a hole, data, a hole.
	sparse := filepath.Join(d.Dir, "sparse")
	fd, err := unix.Open(sparse, unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		s.Fatal(err)
	}
	defer unix.Close(fd)
	for _, off := range []int64{0, 3 << 20} {
		if _, err := unix.Pwrite(fd, []byte("data"), off); err != nil {
			s.Fatal(err)
		}
	}
	if err := unix.Ftruncate(fd, 8<<20); err != nil {
		s.Fatal(err)
	}
	// Programs that compare seconds have nothing to set where files were made just now.
	for i, name := range []string{
		"plain", "dir/setuid", "acl", "capable", "xattrs", "sparse", "fifo", "null", "loop", "dangling",
		"dir/symlink", "dir/setgid", "dir/unreadable", "dir/sticky", "dir/default", "dir", "empty", ".",
	} {
		d.Times(name, []unix.Timespec{{Sec: 1e9 + int64(i)}, {Sec: 1e9 + int64(i), Nsec: 123456789}})
	}
	if d.Err != nil {
		s.Fatal(d.Err)
	}
}

// checkCopy compares a copy with what furnish made, on disk.
func checkCopy(s *stage, name, of string) {
	s.Helper()
	original, copied := filepath.Join(s.disk, of), filepath.Join(s.disk, name)
	treecmp.Report(s, name+" and what it is a copy of", treecmp.Diff(treecmp.MustScan(s, original), treecmp.MustScan(s, copied), treecmp.Options{Mtime: true}))
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(copied, "sparse"), &st); err != nil {
		s.Fatal(err)
	}
	if st.Blocks*512 > 1<<20 {
		s.Errorf("%s/sparse takes %d bytes on disk: its holes are gone", name, st.Blocks*512)
	}
}

func TestTar(t *testing.T) {
	need(t, "tar")
	each(t, []kind{native, relay, translate, requests, exclusive}, "ext4", shift, func(s *stage) outcome {
		furnish(s, "in")
		s.home("copy", 0)
		const options = "--xattrs --xattrs-include='user.*' --xattrs-include=security.capability --acls --numeric-owner --same-owner -p"
		s.sh(root, s.dir, `
			tar -C in `+options+` --sparse --sort=name -cf a.tar .
			tar -C copy `+options+` -xf a.tar
			tar -C copy --numeric-owner -df a.tar`)
		checkCopy(s, "copy", "in")
		// Over what is there already, and in another order.
		s.sh(root, s.dir, `
			chmod -R u+w copy
			rm -r copy/dir/default
			echo changed >copy/acl
			tar -C copy `+options+` -xf a.tar`)
		checkCopy(s, "copy", "in")
		// What a user has, by that user, for whom owners are not to be had.
		home := s.home("home", diskUser)
		s.sh(user, home, `
			mkdir mine back
			echo text >mine/file
			ln mine/file mine/link
			setfattr -n user.x -v y mine/file
			setfacl -m u:100000:r,g:100008:rw mine/file
			touch -d @1000000000 mine/file mine
			tar -C mine --xattrs --acls --sort=name -cf a.tar .
			tar -C back --xattrs --acls -xf a.tar
			tar -C back -df a.tar
			rm a.tar`)
		s.sh(root, s.dir, "rm a.tar")
		return s.outcome("", treecmp.Options{})
	})
}

func TestRsync(t *testing.T) {
	need(t, "rsync")
	each(t, []kind{native, relay, translate, requests, exclusive}, "ext4", shift, func(s *stage) outcome {
		furnish(s, "in")
		s.home("copy", 0)
		const rsync = "rsync -aHAXSi --super --numeric-ids --delete "
		s.sh(root, s.dir, rsync+"in/ copy/")
		checkCopy(s, "copy", "in")
		if out := s.sh(root, s.dir, rsync+"in/ copy/"); out != "" {
			s.Errorf("the second run has something to do:\n%s", out)
		}
		// By what is in the files, not by their times.
		if out := s.sh(root, s.dir, rsync+"--checksum in/ copy/"); out != "" {
			s.Errorf("a run by checksums has something to do:\n%s", out)
		}
		s.sh(root, s.dir, `
			echo more >>in/plain
			chmod 600 in/acl
			rm in/dir/symlink
			mkdir in/new
			setfattr -x user.text in/xattrs
			chown 101001:101001 in/dir/setgid`)
		printed := s.sh(root, s.dir, rsync+"in/ copy/")
		treecmp.Report(s, "copy and in", treecmp.Diff(treecmp.MustScan(s, filepath.Join(s.disk, "in")), treecmp.MustScan(s, filepath.Join(s.disk, "copy")), treecmp.Options{}))
		return s.outcome(printed, treecmp.Options{})
	})
}
