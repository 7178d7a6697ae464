package uml

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var testKernel = &Kernel{Suite: "bullseye", Release: "5.10.46", Root: "/c/uml", Program: "/c/uml/usr/bin/linux.uml"}

func scriptOf(t *testing.T, o Options) string {
	t.Helper()
	if err := o.complete(); err != nil {
		t.Fatal(err)
	}
	return initScript(testKernel, o, "/dev/shm/uml-1")
}

func TestInitScriptHas(t *testing.T) {
	for _, tc := range []struct {
		name string
		o    Options
		want []string // in this order
	}{
		{"modules before the covers", Options{Command: []string{"true"}, Modules: []string{"fuse"}},
			[]string{`modprobe -d '/c/uml' 'fuse'`, `mount -t tmpfs -o mode=755 run /run`, `tmpfs '/tmp'`}},
		{"quoted words", Options{Command: []string{"echo", "it's", "$HOME"}, Env: []string{"A=b c"}, Dir: "/srv/x y"},
			[]string{`cd '/srv/x y' || exit 126`, `export 'A=b c'`, `exec 'echo' 'it'\''s' '$HOME'`}},
		{"program below a cover", Options{Command: []string{"/tmp/b/x.test"}},
			[]string{`tmpfs '/tmp'`, `mkdir -p '/tmp/b'; [ -e '/tmp/b/x.test' ]`, `mount --bind '/run/uml/host/tmp/b/x.test' '/tmp/b/x.test'`, `exec`}},
		{"share", Options{Command: []string{"true"}, Share: "/srv/share"},
			[]string{`mount -t hostfs -o '/srv/share' share /run/uml/share`}},
		{"another cover", Options{Command: []string{"/srv/a/x"}, Cover: []string{"/srv"}},
			[]string{`tmpfs '/srv'`, `mount --bind '/run/uml/host/srv/a/x' '/srv/a/x'`}},
		{"ends with the machine off", Options{Command: []string{"true"}},
			[]string{`>/run/uml/result/exit`, `sync`, `echo o >/proc/sysrq-trigger`, `while :`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rest := scriptOf(t, tc.o)
			for _, want := range tc.want {
				_, after, ok := strings.Cut(rest, want)
				if !ok {
					t.Fatalf("script lacks %q where it is due, in:\n%s", want, rest)
				}
				rest = after
			}
		})
	}
}

func TestInitScriptIsShell(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	text := scriptOf(t, Options{Command: []string{"/tmp/it's", "a\nb"}, Dir: "/tmp/d", Share: "/x", Modules: []string{"fuse"},
		Expose: []string{"/run/e"}, Env: []string{"A=\"'$"}})
	cmd := exec.Command(sh, "-n")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("sh -n: %v: %s\n%s", err, out, text)
	}
}

func TestExposed(t *testing.T) {
	o := Options{Command: []string{"/tmp/x.test"}, Dir: "/work/a", Expose: []string{"/tmp", "/tmpfoo/x", "/var/tmp/../tmp/y", "mnt/x"}}
	if diff := cmp.Diff([]string{"/tmp/x.test", "/var/tmp/y"}, exposed(o)); diff != "" {
		t.Errorf("exposed, -want +got:\n%s", diff)
	}
}

func TestCommandLine(t *testing.T) {
	got := commandLine(testKernel, Options{MemMB: 512, Disks: []string{"/a.img", "/b.img"}}, "/dev/shm/uml-1", "/tmp/init")
	want := []string{"/c/uml/usr/bin/linux.uml", "quiet", "mem=512M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro",
		"init=/tmp/init", "con=null", "con0=fd:0,fd:1", "ssl=null", "uml_dir=/dev/shm/uml-1/umid", "panic=1", "ubd0=/a.img", "ubd1=/b.img"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("command line, -want +got:\n%s", diff)
	}
}

func TestOptionsRefused(t *testing.T) {
	for _, o := range []Options{{}, {Command: []string{"true"}, Env: []string{"A"}}, {Command: []string{"true"}, Env: []string{"=b"}}} {
		if err := o.complete(); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

func TestCacheDir(t *testing.T) {
	t.Setenv("IDMOUNT_CACHE", "")
	t.Setenv("XDG_CACHE_HOME", "/x/cache")
	if got, err := CacheDir(); err != nil || got != "/x/cache/idmount" {
		t.Errorf("CacheDir() = %q, %v", got, err)
	}
	t.Setenv("IDMOUNT_CACHE", "/y")
	if got, err := CacheDir(); err != nil || got != filepath.Clean("/y") {
		t.Errorf("CacheDir() = %q, %v with IDMOUNT_CACHE", got, err)
	}
}
