package rootfs

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/test/testenv"
)

// debsDir is the directory of the root that holds the packages to install.
const debsDir = "srv/debs"

// recipe is how mmdebstrap makes the archive, without the archive's path.
//
// The root needs libcap2-bin and adduser for the packages' own scripts, and acl
// and attr for the test's. Dependencies are left to apt, which knows what the root
// already has: it runs outside the root, with mmdebstrap's configuration.
var recipe = []string{
	"--variant=essential",
	"--include=libcap2-bin,adduser,acl,attr",
	`--customize-hook=mkdir -p "$1/` + debsDir + `"`,
	`--customize-hook=APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get -q -y --download-only --no-install-recommends` +
		` -o Dir::Cache::Archives="$1/` + debsDir + `" install iputils-ping liblockfile-bin plocate`,
	// What apt leaves beside the packages belongs to apt's own user.
	`--customize-hook=rm -rf "$1/` + debsDir + `/partial" "$1/` + debsDir + `/lock"`,
	"--format=tar",
	"bookworm",
}

// archive returns the path of the root's tar archive, made now if it is not in
// the cache. Two tests at once make one archive: the second waits.
func archive(t testing.TB) string {
	t.Helper()
	dir := cacheDir(t)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(strings.Join(recipe, "\x00")))
	name := filepath.Join(dir, fmt.Sprintf("debian-bookworm-%x.tar", sum[:6]))

	lock, err := os.OpenFile(name+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatalf("flock %s: %v", lock.Name(), err)
	}
	if _, err := os.Stat(name); err == nil {
		return name
	}
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		testenv.Skip(t, testenv.NeedProgram, "mmdebstrap is not installed and the cache has no "+name)
	}
	t.Logf("making %s", name)
	partial := name + ".partial"
	defer os.Remove(partial)
	run(t, "mmdebstrap", append(append([]string{}, recipe...), partial)...)
	if err := os.Rename(partial, name); err != nil {
		t.Fatal(err)
	}
	return name
}

func cacheDir(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("IDMOUNT_CACHE"); dir != "" {
		return dir
	}
	// os.UserCacheDir is $XDG_CACHE_HOME, else .cache in $HOME.
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = filepath.Join(os.TempDir(), fmt.Sprintf("cache-%d", os.Getuid()))
	}
	return filepath.Join(dir, "idmount")
}

// unpack puts the archive's tree into the directory dir, owners, modes and
// extended attributes as in the archive.
func unpack(t testing.TB, archive, dir string) {
	t.Helper()
	run(t, "tar", "-C", dir, "--numeric-owner", "--same-owner", "--preserve-permissions",
		"--xattrs", "--xattrs-include=*", "-xf", archive)
}
