package sys

import (
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrMountMaps is the cause when the kernel does not say what map a mount has,
// or not all of it.
var ErrMountMaps = errors.New("the kernel does not tell the map of a mount (statmount, Linux 6.15)")

// MountMaps returns the maps of users and of groups of the mount that f is on,
// as /proc/PID/uid_map has them; mapped is false if it has none. The caller is to
// be in the initial user namespace: another does not see all of a map.
func MountMaps(f *os.File) (uids, gids string, mapped bool, err error) {
	fail := func(err error) (string, string, bool, error) {
		return "", "", false, &Error{Op: "statmount", Path: f.Name(), Err: err}
	}
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID_UNIQUE, &st); err != nil {
		return fail(err)
	}
	if st.Mask&unix.STATX_MNT_ID_UNIQUE == 0 { // before Linux 6.8
		return fail(ErrMountMaps)
	}
	// From linux/mount.h: struct mnt_id_req, the fixed part of struct statmount,
	// and the bits of what is asked for.
	type request struct {
		size, spare uint32
		id, param   uint64
	}
	const (
		fixed     = 512
		uidMap    = 0x2000 // STATMOUNT_MNT_UIDMAP
		gidMap    = 0x4000 // STATMOUNT_MNT_GIDMAP
		supported = 0x1000 // STATMOUNT_SUPPORTED_MASK
	)
	req := request{size: uint32(unsafe.Sizeof(request{})), id: st.Mnt_id, param: uidMap | gidMap | supported}
	// Each kind has 340 lines at most, of three numbers of at most ten digits.
	buf := make([]byte, fixed+2*340*33+1)
	for {
		_, _, errno := unix.Syscall6(unix.SYS_STATMOUNT, uintptr(unsafe.Pointer(&req)), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno == unix.ENOSYS {
			return fail(ErrMountMaps)
		}
		if errno != 0 {
			return fail(errno)
		}
		break
	}
	u32 := func(at int) int { return int(binary.NativeEndian.Uint32(buf[at:])) }
	u64 := func(at int) uint64 { return binary.NativeEndian.Uint64(buf[at:]) }
	mask := u64(8)
	if mask&supported == 0 || u64(144)&(uidMap|gidMap) != uidMap|gidMap {
		return fail(ErrMountMaps)
	}
	if mask&(uidMap|gidMap) == 0 {
		return "", "", false, nil
	}
	// Strings that end with a zero byte follow one another.
	text := func(count, at int) (string, error) {
		lines := strings.SplitN(string(buf[min(fixed+at, len(buf)):]), "\x00", count+1)
		if len(lines) <= count {
			return "", ErrMountMaps
		}
		return strings.Join(lines[:count], "\n"), nil
	}
	if uids, err = text(u32(152), u32(156)); err != nil {
		return fail(err)
	}
	if gids, err = text(u32(160), u32(164)); err != nil {
		return fail(err)
	}
	return uids, gids, true, nil
}
