package mntopt

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Options is what a list says about the mount. The zero value changes nothing.
type Options struct {
	Set   uint64 // unix.MOUNT_ATTR_*
	Clear uint64 // unix.MOUNT_ATTR_*; the whole access time class at once

	// Propagation is unix.MS_PRIVATE, MS_SLAVE, MS_SHARED or MS_UNBINDABLE, or
	// 0 to leave it; PropagationRecursive is for the r forms, such as rslave.
	Propagation          uint64
	PropagationRecursive bool

	Labels Labels
}

// An option touches the bits of mask, and leaves those of set among them set.
type option struct {
	set, mask   uint64
	propagation uint64
	recursive   bool
	cancels     bool // only undoes an earlier option with the same mask and set
}

var known = map[string]option{
	"ro":          {set: unix.MOUNT_ATTR_RDONLY, mask: unix.MOUNT_ATTR_RDONLY},
	"rw":          {mask: unix.MOUNT_ATTR_RDONLY},
	"nosuid":      {set: unix.MOUNT_ATTR_NOSUID, mask: unix.MOUNT_ATTR_NOSUID},
	"suid":        {mask: unix.MOUNT_ATTR_NOSUID},
	"nodev":       {set: unix.MOUNT_ATTR_NODEV, mask: unix.MOUNT_ATTR_NODEV},
	"dev":         {mask: unix.MOUNT_ATTR_NODEV},
	"noexec":      {set: unix.MOUNT_ATTR_NOEXEC, mask: unix.MOUNT_ATTR_NOEXEC},
	"exec":        {mask: unix.MOUNT_ATTR_NOEXEC},
	"nosymfollow": {set: unix.MOUNT_ATTR_NOSYMFOLLOW, mask: unix.MOUNT_ATTR_NOSYMFOLLOW},
	"symfollow":   {mask: unix.MOUNT_ATTR_NOSYMFOLLOW},

	// "atime" says no more than "not noatime", for which relatime is the kernel's
	// default since 2.6.30.
	"noatime":       {set: unix.MOUNT_ATTR_NOATIME, mask: unix.MOUNT_ATTR__ATIME},
	"atime":         {set: unix.MOUNT_ATTR_RELATIME, mask: unix.MOUNT_ATTR__ATIME},
	"relatime":      {set: unix.MOUNT_ATTR_RELATIME, mask: unix.MOUNT_ATTR__ATIME},
	"norelatime":    {set: unix.MOUNT_ATTR_RELATIME, mask: unix.MOUNT_ATTR__ATIME, cancels: true},
	"strictatime":   {set: unix.MOUNT_ATTR_STRICTATIME, mask: unix.MOUNT_ATTR__ATIME},
	"nostrictatime": {set: unix.MOUNT_ATTR_STRICTATIME, mask: unix.MOUNT_ATTR__ATIME, cancels: true},
	"nodiratime":    {set: unix.MOUNT_ATTR_NODIRATIME, mask: unix.MOUNT_ATTR_NODIRATIME},
	"diratime":      {mask: unix.MOUNT_ATTR_NODIRATIME},

	"private":     {propagation: unix.MS_PRIVATE},
	"slave":       {propagation: unix.MS_SLAVE},
	"shared":      {propagation: unix.MS_SHARED},
	"unbindable":  {propagation: unix.MS_UNBINDABLE},
	"rprivate":    {propagation: unix.MS_PRIVATE, recursive: true},
	"rslave":      {propagation: unix.MS_SLAVE, recursive: true},
	"rshared":     {propagation: unix.MS_SHARED, recursive: true},
	"runbindable": {propagation: unix.MS_UNBINDABLE, recursive: true},
}

// add applies one option to those before it.
func (o *Options) add(opt option) {
	chosen := o.Set&opt.mask == opt.set && o.Clear&opt.mask != 0
	if opt.cancels && !chosen {
		return
	}
	o.Set &^= opt.mask
	o.Clear &^= opt.mask
	if !opt.cancels {
		o.Set |= opt.set
		o.Clear |= opt.mask &^ opt.set
	}
	if opt.mask == unix.MOUNT_ATTR__ATIME && !opt.cancels {
		// Kernel: build_mount_kattr() answers EINVAL for less than the whole class.
		o.Clear |= unix.MOUNT_ATTR__ATIME
	}
	if opt.propagation != 0 {
		o.Propagation, o.PropagationRecursive = opt.propagation, opt.recursive
	}
}

// Parse reads a list that has options of the mount alone: those that are
// idmount's own, and "remount", are an error.
func Parse(list string) (Options, error) {
	l, err := ParseList(list)
	if err != nil {
		return Options{}, err
	}
	for name := range l.Own {
		return Options{}, fmt.Errorf("mount option %q: not an option of a mount", name)
	}
	if l.Remount {
		return Options{}, fmt.Errorf("mount option %q: not an option of a new mount", "remount")
	}
	return l.Mount, nil
}

// IsZero says that the options change nothing.
func (o Options) IsZero() bool { return o == Options{} }

// Attr is the argument of mount_setattr(2) for everything but propagation,
// which is a call of its own where it is recursive and the rest is not.
func (o Options) Attr() unix.MountAttr {
	return unix.MountAttr{Attr_set: o.Set, Attr_clr: o.Clear}
}

// String is the list in a fixed order: Parse reads it back to equal Options.
func (o Options) String() string {
	var names []string
	flag := func(bit uint64, set, clear string) {
		switch {
		case o.Set&bit != 0:
			names = append(names, set)
		case o.Clear&bit != 0:
			names = append(names, clear)
		}
	}
	flag(unix.MOUNT_ATTR_RDONLY, "ro", "rw")
	flag(unix.MOUNT_ATTR_NOSUID, "nosuid", "suid")
	flag(unix.MOUNT_ATTR_NODEV, "nodev", "dev")
	flag(unix.MOUNT_ATTR_NOEXEC, "noexec", "exec")
	flag(unix.MOUNT_ATTR_NOSYMFOLLOW, "nosymfollow", "symfollow")
	if o.Clear&unix.MOUNT_ATTR__ATIME == unix.MOUNT_ATTR__ATIME {
		switch o.Set & unix.MOUNT_ATTR__ATIME {
		case unix.MOUNT_ATTR_NOATIME:
			names = append(names, "noatime")
		case unix.MOUNT_ATTR_STRICTATIME:
			names = append(names, "strictatime")
		default:
			names = append(names, "relatime")
		}
	}
	flag(unix.MOUNT_ATTR_NODIRATIME, "nodiratime", "diratime")
	if o.Propagation != 0 {
		name := map[uint64]string{
			unix.MS_PRIVATE: "private", unix.MS_SLAVE: "slave",
			unix.MS_SHARED: "shared", unix.MS_UNBINDABLE: "unbindable",
		}[o.Propagation]
		if o.PropagationRecursive {
			name = "r" + name
		}
		names = append(names, name)
	}
	for _, l := range o.Labels.All() {
		names = append(names, l.String())
	}
	return strings.Join(names, ",")
}
