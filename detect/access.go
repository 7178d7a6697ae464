package detect

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// Access is with whose ids a FUSE server reaches the source.
type Access string

const (
	AutoAccess   Access = "auto"   // Caller where the source refuses root, else Daemon
	DaemonAccess Access = "daemon" // the server's own, root's
	CallerAccess Access = "caller" // those of each operation's caller, translated by the map
)

// ParseAccess reads the name of an access; "" is AutoAccess.
func ParseAccess(name string) (Access, error) {
	switch a := Access(name); a {
	case "":
		return AutoAccess, nil
	case AutoAccess, DaemonAccess, CallerAccess:
		return a, nil
	}
	return "", fmt.Errorf("access %q: must be auto, caller or daemon", name)
}

// relayAccess is whether relay can reach the source as it has to be reached.
func (r *Report) relayAccess() Finding {
	if r.Access == CallerAccess {
		return no(nil, "operations have to run as their callers, and with relay the kernel does not say who they are")
	}
	return yes("the server may do everything on the source itself")
}

// accessTries bounds how many entries of the source are looked at.
const accessTries = 256

// AccessTo says how a FUSE server is to reach a mount of a type, and why: see
// Report.Access and Report.RootAccess.
func AccessTo(src *os.File, fstype string, want Access) (Access, Finding) {
	r := Report{Path: src.Name(), FSType: fstype}
	r.probeRootAccess(src, want)
	return r.Access, r.RootAccess
}

// probeRootAccess finds out whether root is refused what root may do on any
// local file system: an NFS server with root_squash takes root for nobody. It
// asks for rights (access(2)) that the mode gives to nobody but an owner, on the
// source and on what is in it. Nothing is opened for writing.
func (r *Report) probeRootAccess(src *os.File, want Access) {
	r.RootAccess = r.tryRootAccess(src)
	switch {
	case want == DaemonAccess || want == CallerAccess:
		r.Access = want
	case r.RootAccess.Verdict == No:
		r.Access = CallerAccess
	case r.RootAccess.Verdict == Unknown && r.isNFS():
		// What works for every export, if with less than root's rights on one
		// that leaves root alone.
		r.Access = CallerAccess
	default:
		r.Access = DaemonAccess
	}
	if r.Access == CallerAccess && r.Passthrough.Verdict == Yes {
		r.StackDepth = 0
		r.Passthrough = no(nil, "passthrough opens files as the server, and operations have to run as their callers")
	}
}

func (r *Report) isNFS() bool { return strings.HasPrefix(r.FSType, "nfs") }

func (r *Report) tryRootAccess(src *os.File) Finding {
	if caps, _, err := sys.ThreadCaps(); err != nil || os.Geteuid() != 0 || !caps.Has(unix.CAP_DAC_OVERRIDE) {
		return unknown(err, "this process is not root, so it can't be told what root may do")
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(src.Fd()), &fs); err != nil {
		return unknown(&sys.Error{Op: "statfs", Path: r.Path, Err: err}, "the source could not be asked")
	}
	readOnly := fs.Flags&unix.ST_RDONLY != 0
	dir := fmt.Sprintf("/proc/self/fd/%d", src.Fd())
	told, err := r.rootMay(unix.AT_FDCWD, dir, 0, readOnly)
	if told {
		return r.accessFinding(r.Path, err)
	}
	// O_DIRECTORY: opening a FIFO or a device would do something.
	top, openErr := os.OpenFile(dir, unix.O_DIRECTORY, 0)
	if openErr != nil {
		if os.IsPermission(openErr) {
			return r.accessFinding(r.Path, unix.EACCES)
		}
		return unknown(openErr, "the source could not be listed")
	}
	defer top.Close()
	entries, _ := top.ReadDir(accessTries)
	for _, e := range entries {
		if !e.IsDir() && !e.Type().IsRegular() {
			continue
		}
		if told, err := r.rootMay(int(top.Fd()), e.Name(), unix.AT_SYMLINK_NOFOLLOW, readOnly); told {
			return r.accessFinding(r.Path+"/"+e.Name(), err)
		}
	}
	return unknown(nil, "nothing in the source is closed to everybody but its owner, so it can't be told whether root may do everything")
}

// rootMay asks for what the mode gives to an owner at most. told says that the
// answer says something about root.
func (r *Report) rootMay(dirfd int, name string, flags int, readOnly bool) (told bool, err error) {
	var st unix.Stat_t
	if unix.Fstatat(dirfd, name, &st, flags) != nil {
		return false, nil
	}
	const nobody, noID = 65534, 4294967295
	if st.Uid == nobody || st.Uid == noID || st.Gid == nobody || st.Gid == noID {
		return false, nil // whom a server makes of root may be the owner
	}
	rights := ^st.Mode & 07
	if readOnly {
		rights &^= unix.W_OK
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		rights &^= unix.X_OK
	}
	if rights == 0 {
		return false, nil
	}
	err = unix.Faccessat(dirfd, name, rights, 0)
	return err == nil || err == unix.EACCES, err
}

func (r *Report) accessFinding(path string, err error) Finding {
	if err == nil {
		return yes("the source refuses root nothing (tried on %s)", path)
	}
	return no(&sys.Error{Op: "faccessat", Path: path, Err: err},
		"the source refuses root what only an owner may do, as an NFS server with root_squash does")
}
