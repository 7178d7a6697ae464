package uml

import (
	"context"
	"fmt"
	"path"
	"strings"
)

// NFS is the NFS server and client of the host's own Debian suite, unpacked in
// the cache. It is never installed, so no service of it starts on the host.
type NFS struct {
	Root string // below which its programs and libraries are
}

// NFSModules are the modules that NFS needs in the guest, in an order that
// loads on every suite.
var NFSModules = []string{"sunrpc", "lockd", "auth_rpcgss", "nfsd", "nfs", "nfsv3", "nfsv4", "loop", "ipv6"}

// exitNFS is the exit code of a guest whose NFS server did not come up.
const exitNFS = 99

// NFSOptions say what is exported, and how. The zero value exports ext4
// without squashing root.
type NFSOptions struct {
	// Dir is where all of it is mounted, /mnt/nfs if empty: the exported file
	// system at Dir/server, its mounts by NFSv4.2, NFSv4.0 and NFSv3 at
	// Dir/v4, Dir/v4.0 and Dir/v3.
	Dir        string
	FS         string // of the server: "ext4" (the default), "xfs", "tmpfs"
	SizeMB     int    // of the server's file system, 512 if zero
	RootSquash bool   // root of the client is nobody on the server
}

// FetchNFS returns the NFS programs, from the cache in cacheDir ("" for
// CacheDir) or through apt. Its errors are ErrUnavailable.
func FetchNFS(ctx context.Context, cacheDir string) (*NFS, error) {
	dir, err := cached(cacheDir, "nfs-"+layoutVersion, func(dir string) error {
		return unpackHost(ctx, dir, "nfs-kernel-server", "nfs-common", "rpcbind")
	})
	if err != nil {
		return nil, fmt.Errorf("NFS programs: %w: %w", ErrUnavailable, err)
	}
	return &NFS{Root: dir}, nil
}

// Libraries is the LD_LIBRARY_PATH that the programs below Root need.
func (n *NFS) Libraries() string {
	return path.Join(n.Root, "usr/lib/x86_64-linux-gnu") + ":" + path.Join(n.Root, "lib/x86_64-linux-gnu")
}

// With returns o with an NFS server and its mounts set up before the command
// runs. The command fails with exit code 99, and says why, where the server
// does not come up.
func (n *NFS) With(o Options, nfs NFSOptions) Options {
	o.Modules = append(append([]string(nil), NFSModules...), o.Modules...)
	o.Expose = append(append([]string(nil), o.Expose...), n.Root)
	if len(o.Command) > 0 {
		// The shell takes the command's place, so name the program itself.
		o.Expose = append(o.Expose, o.Command[0])
		o.Command = append([]string{"sh", "-c", n.Serve(nfs) + `exec "$@"` + "\n", "sh"}, o.Command...)
	}
	return o
}

// Serve is the shell text, for the guest, that exports a file system and
// mounts it by NFSv4.2, NFSv4.0 and NFSv3.
func (n *NFS) Serve(o NFSOptions) string {
	if o.Dir == "" {
		o.Dir = "/mnt/nfs"
	}
	if o.FS == "" {
		o.FS = "ext4"
	}
	if o.SizeMB == 0 {
		o.SizeMB = 512
	}
	squash := "no_root_squash"
	if o.RootSquash {
		squash = "root_squash"
	}
	server, v4, v40, v3 := path.Join(o.Dir, "server"), path.Join(o.Dir, "v4"), path.Join(o.Dir, "v4.0"), path.Join(o.Dir, "v3")
	steps := []string{
		fmt.Sprintf("mkdir -p %s %s %s %s", quote(server), quote(v4), quote(v40), quote(v3)),
		// The programs have their paths in /etc and /var/lib built in.
		writable("/etc"), writable("/var/lib"),
		// libtirpc's netconfig, if it came along because the host lacks it.
		fmt.Sprintf("{ [ ! -e %[1]s ] || cp -n %[1]s /etc/; }", quote(path.Join(n.Root, "etc/netconfig"))),
		// The users that the packages' scripts would have made.
		"{ grep -q ^_rpc: /etc/passwd || echo _rpc:x:106:65534::/run/rpcbind:/usr/sbin/nologin >>/etc/passwd; }",
		"{ grep -q ^statd: /etc/passwd || echo statd:x:107:65534::/var/lib/nfs:/usr/sbin/nologin >>/etc/passwd; }",
		"rm -rf /var/lib/nfs", "mkdir -p /var/lib/nfs/nfsdcld /var/lib/nfs/sm /var/lib/nfs/sm.bak /var/lib/nfs/v4recovery /run/rpcbind /run/rpc_pipefs",
		"touch /var/lib/nfs/etab /var/lib/nfs/rmtab /var/lib/nfs/state",
		"{ mountpoint -q /proc/fs/nfsd || mount -t nfsd nfsd /proc/fs/nfsd; }",
		"mount -t rpc_pipefs rpc_pipefs /run/rpc_pipefs",
		// Nobody has state to reclaim from a server that just came up. With
		// the usual grace period the first lock would wait for 90 seconds.
		"echo 10 >/proc/fs/nfsd/nfsv4leasetime", "echo 10 >/proc/fs/nfsd/nfsv4gracetime",
		"{ echo 3 >/proc/sys/fs/nfs/nlm_timeout; echo 3 >/proc/sys/fs/nfs/nlm_grace_period; }",
	}
	steps = append(steps, makeFS(o, server)...)
	steps = append(steps,
		"chmod 1777 "+quote(server),
		"nfs_run rpcbind",
		"nfs_run rpc.statd --no-notify",
		"echo "+quote(fmt.Sprintf(`"%s" *(rw,%s,insecure,fsid=0,no_subtree_check)`, server, squash))+" >/etc/exports",
		"nfs_run exportfs -a",
		// Tracks clients. With it the server knows that no client has state
		// to reclaim, and newer kernels end the grace period only with it.
		"{ nfs_run nfsdcld -p /run/rpc_pipefs -s /var/lib/nfs/nfsdcld || echo NFS: goes without nfsdcld; }",
		"nfs_run rpc.nfsd -V 3 -V 4.2 4",
		"{ echo Y >/proc/fs/nfsd/v4_end_grace || :; } 2>/dev/null",
		"nfs_run rpc.mountd",
		fmt.Sprintf("nfs_run mount.nfs4 127.0.0.1:/ %s -o vers=4.2", quote(v4)),
		fmt.Sprintf("nfs_run mount.nfs4 127.0.0.1:/ %s -o vers=4.0", quote(v40)),
		fmt.Sprintf("nfs_run mount.nfs 127.0.0.1:%s %s -o vers=3", quote(server), quote(v3)),
	)
	var b strings.Builder
	// Only these programs get the unpacked libraries.
	fmt.Fprintf(&b, "nfs_run() { PATH=%[1]s/usr/sbin:%[1]s/sbin:%[1]s/usr/bin:$PATH LD_LIBRARY_PATH=%[1]s/usr/lib/x86_64-linux-gnu:%[1]s/lib/x86_64-linux-gnu \"$@\" >/run/nfs.log 2>&1 || { code=$?; cat /run/nfs.log; return $code; }; }\n", quote(n.Root))
	b.WriteString("nfs_do() { nfs_step=$1; eval \"$1\" && return; echo \"NFS: $nfs_step: exit code $?\"; exit " + fmt.Sprint(exitNFS) + "; }\n")
	for _, s := range steps {
		fmt.Fprintf(&b, "nfs_do %s\n", quote(s))
	}
	return b.String()
}

// writable is the shell text that makes a directory of the host writable in
// the guest: a tmpfs with copies of its files, and links to its directories,
// which stay read-only. An overlay would do as well from 6.1 on; 5.10's finds
// no files below a merged hostfs.
//
// It sets the positional parameters, so it belongs in a shell function. Starting
// a process takes tens of milliseconds in the guest: hence one cp, one ln.
func writable(dir string) string {
	return fmt.Sprintf("mount -t tmpfs -o mode=755 tmpfs %[1]s && set -- && "+
		"for entry in %[2]s/*; do [ ! -d \"$entry\" ] || set -- \"$@\" \"$entry\"; done && ln -s \"$@\" %[1]s/ && set -- && "+
		"for entry in %[2]s/*; do [ -d \"$entry\" ] || set -- \"$@\" \"$entry\"; done && { [ $# = 0 ] || cp -a \"$@\" %[1]s/; }", dir, hostView+dir)
}

func makeFS(o NFSOptions, server string) []string {
	if o.FS == "tmpfs" {
		return []string{fmt.Sprintf("mount -t tmpfs -o size=%dm server %s", o.SizeMB, quote(server))}
	}
	return []string{
		fmt.Sprintf("truncate -s %dM /run/nfs.img", o.SizeMB),
		fmt.Sprintf("mkfs.%s -q /run/nfs.img", o.FS),
		fmt.Sprintf("mount -t %s -o loop /run/nfs.img %s", o.FS, quote(server)),
	}
}
