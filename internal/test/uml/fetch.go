package uml

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// ErrUnavailable is what every error of Fetch and FetchNFS is: the package
// can't be had here (no apt, no network, not on the mirror, not on amd64).
var ErrUnavailable = errors.New("not available here")

// Kernel is an unpacked kernel that is ready to boot.
type Kernel struct {
	Suite   string
	Release string // what uname -r says in the guest
	Program string // path of linux.uml
	Root    string // what modprobe -d wants: the modules are in Root/lib/modules
	libDir  string // the suite's own C library
	loader  string // and its dynamic loader
}

// layoutVersion is part of the cache's names; it changes when what is kept
// there does.
const layoutVersion = "1"

// Fetch returns the kernel of suite, from the cache in cacheDir ("" for
// CacheDir) or through apt. A cached kernel is used as it is for ever; remove
// the cache to have a newer one of the same suite.
func Fetch(ctx context.Context, suite, cacheDir string) (*Kernel, error) {
	s, err := findSuite(suite)
	if err != nil {
		return nil, err
	}
	dir, err := cached(cacheDir, "uml-"+layoutVersion+"-"+s.Name, func(dir string) error {
		return fetchKernel(ctx, s, dir)
	})
	if err == nil {
		var k *Kernel
		if k, err = openKernel(s, dir); err == nil {
			return k, nil
		}
	}
	return nil, fmt.Errorf("kernel of suite %s: %w: %w", suite, ErrUnavailable, err)
}

func fetchKernel(ctx context.Context, s Suite, dir string) error {
	work, err := os.MkdirTemp("", "idmount-apt-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	a, err := download(ctx, s, work)
	if err != nil {
		return err
	}
	libc := filepath.Join(dir, "libc")
	if err := a.unpack(ctx, kernelPackage+"_*.deb", dir); err != nil {
		return err
	}
	if err := a.unpack(ctx, libcPackage+"_*.deb", libc); err != nil {
		return err
	}
	// modprobe and depmod want lib/modules; the package has it elsewhere.
	if err := os.Mkdir(filepath.Join(dir, "lib"), 0o755); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(dir, "usr/lib/uml/modules"), filepath.Join(dir, "lib/modules")); err != nil {
		return err
	}
	k, err := openKernel(s, dir)
	if err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "depmod", "-b", dir, k.Release).CombinedOutput(); err != nil {
		return fmt.Errorf("depmod -b %s %s: %w: %s", dir, k.Release, err, lastLines(out, 3))
	}
	return setInterpreter(k.Program, inheritedLoader)
}

// download fetches the two packages from the first mirror that has the suite.
func download(ctx context.Context, s Suite, work string) (*apt, error) {
	var errs []error
	for i, m := range mirrors(ctx) {
		a, err := newApt(ctx, filepath.Join(work, fmt.Sprint(i)), m.source(s.Name), "/dev/null")
		if err != nil {
			return nil, err
		}
		if err = a.update(ctx); err == nil {
			if err = a.get(ctx, "download", kernelPackage, libcPackage); err == nil {
				return a, nil
			}
		}
		errs = append(errs, fmt.Errorf("%s: %w", m.uri, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// openKernel finds what is where below dir.
func openKernel(s Suite, dir string) (*Kernel, error) {
	k := &Kernel{Suite: s.Name, Root: dir, Program: filepath.Join(dir, "usr/bin/linux.uml")}
	if _, err := os.Stat(k.Program); err != nil {
		return nil, err
	}
	modules, err := filepath.Glob(filepath.Join(dir, "lib/modules/*"))
	if err != nil {
		return nil, err
	}
	if len(modules) != 1 {
		return nil, fmt.Errorf("modules of one kernel in %s: found %d", dir, len(modules))
	}
	k.Release = filepath.Base(modules[0])
	// bullseye has its libraries in /lib, the others in /usr/lib.
	loaders, err := filepath.Glob(filepath.Join(dir, "libc", "*", "*", "*", "ld-linux-x86-64.so.2"))
	if err != nil {
		return nil, err
	}
	older, err := filepath.Glob(filepath.Join(dir, "libc", "lib", "*", "ld-linux-x86-64.so.2"))
	if err != nil {
		return nil, err
	}
	loaders = append(loaders, older...)
	if len(loaders) == 0 {
		return nil, fmt.Errorf("dynamic loader in %s/libc: %w", dir, os.ErrNotExist)
	}
	k.loader, k.libDir = loaders[0], filepath.Dir(loaders[0])
	return k, nil
}
