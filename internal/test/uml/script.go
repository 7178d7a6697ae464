package uml

import (
	"fmt"
	"path"
	"path/filepath"
	"strings"
)

// Places in the guest.
const (
	guestDir   = "/run/uml"            // ours; on the tmpfs over /run
	hostView   = guestDir + "/host"    // the host's root, read-only
	resultDir  = guestDir + "/result"  // the run's own directory of the host
	GuestShare = guestDir + "/share"   // Options.Share
	exitFile   = resultDir + "/exit"   // the command's exit code, a number
	outputFile = resultDir + "/output" // its standard output and error
)

// covered are the directories over which the guest has a tmpfs.
var covered = []string{"/run", "/tmp", "/var/tmp", "/mnt"}

// initScript is the guest's init: it makes a machine of the host's root, runs
// the command and powers off. run is the run's directory on the host.
func initScript(k *Kernel, o Options, run string) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line(`#!/bin/sh`)
	line(`PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; HOME=/root; TERM=dumb; LC_ALL=C; export PATH HOME TERM LC_ALL`)
	if k.smallState() {
		for _, e := range noAVX {
			line(`export %s`, quote(e))
		}
	}
	line(`mount -t proc proc /proc`)
	line(`mount -t sysfs sysfs /sys`)
	// The kernel itself mounts devtmpfs over /dev (CONFIG_DEVTMPFS_MOUNT).
	line(`[ -c /dev/null ] && grep -q ' /dev devtmpfs ' /proc/mounts || mount -t devtmpfs devtmpfs /dev`)
	line(`mkdir -p /dev/pts /dev/shm; mount -t devpts devpts /dev/pts; mount -t tmpfs -o mode=1777 shm /dev/shm`)
	line(`[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd`)

	// Modules first: the cache may be in a directory that is covered below.
	for _, m := range o.Modules {
		line(`modprobe -d %s %s || echo "modprobe %s: exit code $?"`, quote(k.Root), quote(m), quote(m))
	}
	line(`[ -e /dev/fuse ] || mknod /dev/fuse c 10 229; chmod 666 /dev/fuse /dev/null`)
	line(`[ -e /dev/loop-control ] || mknod -m 660 /dev/loop-control c 10 237`)
	line(`ip link set lo up || ifconfig lo up`)

	// The host's root, once more and without what is mounted on it, to bring
	// back what the covers hide.
	line(`mount -t tmpfs -o mode=755 run /run`)
	line(`mkdir -p %s %s %s`, hostView, resultDir, GuestShare)
	line(`mount -t hostfs -o %s result %s`, quote(run), resultDir)
	line(`mount --bind / %s`, hostView)
	for _, dir := range append(covered[1:], o.Cover...) {
		line(`[ ! -d %s ] || mount -t tmpfs -o mode=1777 tmpfs %[1]s`, quote(dir))
	}
	// For programs and for the kernel, which load modules by themselves.
	line(`[ ! -d /lib/modules ] || mount --bind %s /lib/modules`, quote(hostView+path.Join(k.Root, "lib/modules")))
	for _, p := range exposed(o) {
		line(`%s`, expose(p))
	}
	if o.Share != "" {
		line(`mount -t hostfs -o %s share %s`, quote(o.Share), GuestShare)
	}

	// A command may leave daemons behind that hold its standard output. So it
	// writes to a FIFO, and what reads there is waited for only so long.
	// O_SYNC, for the guest's kernel caches what is written to hostfs.
	line(`mkfifo %s/pipe`, guestDir)
	line(`dd if=%s/pipe of=%s bs=65536 oflag=sync 2>/dev/null &`, guestDir, outputFile)
	line(`copier=$!`)
	b.WriteString("(\n")
	line(`cd %s || exit 126`, quote(o.Dir))
	for _, e := range o.Env {
		line(`export %s`, quote(e))
	}
	line(`exec %s`, quoteAll(o.Command))
	line(`) </dev/null >%s/pipe 2>&1`, guestDir)
	line(`code=$?`)
	line(`for i in 1 2 3 4 5 6 7 8 9 10; do kill -0 $copier 2>/dev/null || break; sleep 0.1; done`)
	line(`echo $code >%s`, exitFile)
	line(`sync`)
	line(`echo o >/proc/sysrq-trigger`)
	// init must not end: the kernel would panic before it powers off.
	line(`while :; do sleep 1; done`)
	return b.String()
}

// exposed lists what has to be brought back from below the covers: what the
// options name, the command and its directory.
func exposed(o Options) []string {
	var paths []string
	for _, p := range append([]string{o.Dir, o.Command[0]}, o.Expose...) {
		if !filepath.IsAbs(p) {
			continue
		}
		p = filepath.Clean(p)
		for _, dir := range append(covered, o.Cover...) {
			if strings.HasPrefix(p, dir+"/") {
				paths = append(paths, p)
				break
			}
		}
	}
	return paths
}

// expose is the shell text that brings one path back, read-only.
func expose(p string) string {
	from, to := quote(hostView+p), quote(p)
	return fmt.Sprintf(`if [ -d %s ]; then mkdir -p %[2]s; mount --bind %[1]s %[2]s; `+
		`elif [ -e %[1]s ]; then mkdir -p %[3]s; [ -e %[2]s ] || : >%[2]s; mount --bind %[1]s %[2]s; fi`,
		from, to, quote(path.Dir(p)))
}

func quote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func quoteAll(args []string) string {
	quoted := make([]string, len(args))
	for i, a := range args {
		quoted[i] = quote(a)
	}
	return strings.Join(quoted, " ")
}
