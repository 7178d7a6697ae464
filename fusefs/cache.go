package fusefs

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Cache says what the kernel may keep of what it learned of the source, and so
// what a change that somebody makes below the mount looks like from above.
// Changes made through the mount are always seen at once.
type Cache struct {
	Mode CacheMode
	TTL  time.Duration // of CacheTTL
}

// CacheMode is how a Cache works. The zero value is CacheCoherent.
type CacheMode uint8

const (
	// CacheCoherent keeps names and attributes, and takes back what others
	// change below as soon as the kernel reports it (fanotify(7), Linux 5.9):
	// in milliseconds; where files don't open by handle, as on overlay, Linux
	// 6.6. What is not reported, times of access and stores to
	// mapped files, is seen within CoherentBound. Sources whose changes are not
	// all seen by this kernel, such as NFS, work as with CacheNone.
	CacheCoherent CacheMode = iota
	// CacheTTL keeps names and attributes for a time, whatever happens below.
	CacheTTL
	// CacheNone keeps nothing: each access asks the server.
	CacheNone
	// CacheExclusive is for a source that is used only through the mount: the
	// kernel keeps names, attributes and data, and writes data back later.
	// Changes below are not seen, or lost.
	CacheExclusive
)

// CoherentBound is how long a change may stay unseen that CacheCoherent is not
// told of.
const CoherentBound = time.Minute

// exclusiveBound is how long the kernel keeps what cannot change.
const exclusiveBound = 24 * time.Hour

// maxTTL keeps a TTL far from the overflow of the kernel's clock.
const maxTTL = 365 * 24 * time.Hour

var cacheNames = map[CacheMode]string{
	CacheCoherent:  "coherent",
	CacheTTL:       "ttl",
	CacheNone:      "none",
	CacheExclusive: "exclusive",
}

// ParseCache reads coherent, none, exclusive or ttl=DURATION, a duration being
// as in "10s" or "1m30s". An empty text is the default, coherent.
func ParseCache(s string) (Cache, error) {
	name, ttl, hasTTL := strings.Cut(s, "=")
	c := Cache{Mode: CacheCoherent}
	for mode, known := range cacheNames {
		if name == known {
			c.Mode = mode
		}
	}
	if s != "" && cacheNames[c.Mode] != name {
		return Cache{}, fmt.Errorf("cache %q: want coherent, ttl=DURATION, none or exclusive", s)
	}
	if hasTTL != (c.Mode == CacheTTL) {
		return Cache{}, fmt.Errorf("cache %q: a duration belongs to ttl, and to no other", s)
	}
	if hasTTL {
		var err error
		if c.TTL, err = time.ParseDuration(ttl); err != nil {
			return Cache{}, fmt.Errorf("cache %q: %q is no duration such as 10s or 1m30s", s, ttl)
		}
		if c.TTL <= 0 || c.TTL > maxTTL {
			return Cache{}, fmt.Errorf("cache %q: the duration must be more than 0 and at most %v", s, maxTTL)
		}
	}
	return c, nil
}

// String is the text that ParseCache reads back.
func (c Cache) String() string {
	if c.Mode == CacheTTL {
		return "ttl=" + c.TTL.String()
	}
	return cacheNames[c.Mode]
}

// MarshalText is String.
func (c Cache) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText is ParseCache.
func (c *Cache) UnmarshalText(text []byte) error {
	parsed, err := ParseCache(string(text))
	if err == nil {
		*c = parsed
	}
	return err
}

// capExpireOnly is FUSE_HAS_EXPIRE_ONLY, Linux 6.2: a name can be taken back
// without throwing a directory that a process works in out of the tree, for which
// getcwd(2) then is ENOENT. Older kernels keep nothing.
const capExpireOnly = 1 << 35

// Caching returns how the kernel caches the source, and why if that is not as
// Options.Cache says. It is for after Start.
func (f *FS) Caching() (Cache, error) {
	if f.cache.Mode != CacheCoherent || f.rootLifetime() > 0 {
		return f.cache, nil
	}
	kept := Cache{Mode: CacheNone}
	switch {
	case f.remoteData:
		return kept, ErrShared
	case f.single:
		return kept, ErrFile
	case f.mounts.root == nil && f.mounts.blind != nil:
		return kept, f.mounts.blind
	case f.mounts.root == nil:
		return kept, ErrNoExpiry
	case f.mounts.root.blind != nil:
		return kept, f.mounts.root.blind
	}
	return kept, ErrNoExpiry
}

// Why a source is not cached coherently, if it is for no system call that failed.
var (
	ErrNoHandles = errors.New("the source has no file handles, by which changes are told from one another")
	ErrFile      = errors.New("the source is a file, of which no descriptor is kept that changes could be watched by")
	ErrShared    = errors.New("others than this kernel may change the source")
	ErrNoExpiry  = errors.New("the kernel's FUSE has no HAS_EXPIRE_ONLY (Linux 6.2)")
)

// validity returns how long the kernel may keep what it is told of files on a
// mount of the source at this moment.
func (f *FS) validity(m *mount) time.Duration {
	if f.watch.isBehind() {
		return 0
	}
	return f.lifetime(m)
}

// lifetime is validity while no changes are lost.
func (f *FS) lifetime(m *mount) time.Duration {
	switch f.cache.Mode {
	case CacheTTL:
		return f.cache.TTL
	case CacheExclusive:
		return exclusiveBound
	case CacheCoherent:
		if m != nil && m.watched && f.kernel.Flags&capExpireOnly != 0 {
			return CoherentBound
		}
	}
	return 0
}

// rootLifetime is lifetime of what is on the source's own mount.
func (f *FS) rootLifetime() time.Duration {
	if f.cache.Mode == CacheCoherent && f.mounts.root == nil && f.mounts.blind == nil && f.kernel.Flags&capExpireOnly != 0 {
		return CoherentBound
	}
	return f.lifetime(f.mounts.root)
}

// kept is validity for what was read of a node since r began.
func (f *FS) kept(n *node, r reading) time.Duration {
	if r.marked && f.kernel.Flags&capExpireOnly != 0 && !f.watch.isBehind() {
		return CoherentBound
	}
	return f.validity(f.mountOf(n))
}

// attrValidity returns how long attributes of n may be kept that were read
// since r began.
//
// The mode of a file with S_ISUID or S_ISGID is never kept: a write can clear
// them at the source, without the kernel's knowing that of our file, and a
// program has to lose them with its first changed byte. Neither are those of a
// file that is open for writing and written without our knowing. A file with several names
// may be one inode of an overlay for each name, of which only one is marked.
func (f *FS) attrValidity(n *node, mode uint32, links uint64, r reading) time.Duration {
	if !n.isDir() && mode&(unix.S_ISUID|unix.S_ISGID) != 0 {
		return 0
	}
	if n.written() && f.cache.Mode != CacheExclusive {
		return 0
	}
	if r.marked && links > 1 && !n.isDir() {
		return 0
	}
	d := f.kept(n, r)
	if d != 0 && !f.watch.undisturbed(r) {
		return 0
	}
	return d
}

// entryValidity is attrValidity for a name in dir.
func (f *FS) entryValidity(dir *node, r reading) time.Duration {
	d := f.kept(dir, r)
	if d != 0 && !f.watch.undisturbed(r) {
		return 0
	}
	return d
}
