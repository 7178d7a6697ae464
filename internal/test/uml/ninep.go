package uml

import (
	"context"
	"fmt"
	"path"
)

// NineP is diod, a server of 9P2000.L, of the host's own Debian suite, unpacked
// in the cache as NFS is.
type NineP struct {
	Root string // below which the program and its libraries are
}

// NinePModules are the modules that 9p needs in the guest. Linux 5.10 has the
// second in the first.
var NinePModules = []string{"9pnet", "9pnet_fd", "9p", "loop"}

// exitNineP is the exit code of a guest whose 9p server did not come up.
const exitNineP = 98

// FetchNineP returns the server, from the cache in cacheDir ("" for CacheDir) or
// through apt. Its errors are ErrUnavailable.
func FetchNineP(ctx context.Context, cacheDir string) (*NineP, error) {
	dir, err := cached(cacheDir, "9p-"+layoutVersion, func(dir string) error { return unpackHost(ctx, dir, "diod") })
	if err != nil {
		return nil, fmt.Errorf("9p server: %w: %w", ErrUnavailable, err)
	}
	return &NineP{Root: dir}, nil
}

// With returns o with an ext4 at dir/server that is served by 9p, and its mounts
// set up before the command runs: at dir/user, each user is the server's user of
// that id (access=user, what mount(8) does by itself); at dir/client, the client
// decides who may do what (access=client,posixacl). The command fails with exit
// code 98, and says why, where the server does not come up.
func (n *NineP) With(o Options, dir string) Options {
	o.Modules = append(append([]string(nil), NinePModules...), o.Modules...)
	o.Expose = append(append([]string(nil), o.Expose...), n.Root)
	if len(o.Command) > 0 {
		// The shell takes the command's place, so name the program itself.
		o.Expose = append(o.Expose, o.Command[0])
		o.Command = append([]string{"sh", "-c", n.serve(dir) + `exec "$@"` + "\n", "sh"}, o.Command...)
	}
	return o
}

// serve is the shell text, for the guest, that serves and mounts.
func (n *NineP) serve(dir string) string {
	server := path.Join(dir, "server")
	mount := func(name, options string) string {
		return fmt.Sprintf("mount -t 9p -o trans=tcp,port=5640,version=9p2000.L,uname=root,aname=%s,%s 127.0.0.1 %s\n",
			quote(server), options, quote(path.Join(dir, name)))
	}
	return fmt.Sprintf("( set -e\nmkdir -p %s %s %s\n", quote(server), quote(path.Join(dir, "user")), quote(path.Join(dir, "client"))) +
		"truncate -s 512M /run/9p.img\nmkfs.ext4 -q /run/9p.img\n" +
		fmt.Sprintf("mount -t ext4 -o loop /run/9p.img %s\nchmod 1777 %[1]s\n", quote(server)) +
		// It listens before it goes to the background. -N: ids need no names.
		fmt.Sprintf("LD_LIBRARY_PATH=%[1]s/usr/lib/x86_64-linux-gnu:%[1]s/lib/x86_64-linux-gnu "+
			"%[1]s/usr/sbin/diod -c /dev/null -n -N -e %[2]s -l 127.0.0.1:5640 -L /run/diod.log\n", quote(n.Root), quote(server)) +
		mount("user", "access=user") + mount("client", "access=client,posixacl") +
		fmt.Sprintf(") || { echo 9p: exit code $?; cat /run/diod.log; exit %d; }\n", exitNineP)
}
