package idmount

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/idmount/idmount/detect"
	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/test/testenv"
)

const label = `context="system_u:object_r:container_file_t:s0:c1,c2"`

// TestLabels follows a label from the option list to the kernel, which has no SELinux
// and refuses it by its name. Native mounts can't have one, so auto takes relay.
func TestLabels(t *testing.T) {
	testenv.RequireRoot(t)
	text, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "selinuxfs") {
		testenv.Skip(t, testenv.NeedKernel, "a kernel without SELinux")
	}
	defer func(was func() bool) { selinuxActive = was }(selinuxActive)
	selinuxActive = func() bool { return true }

	source := testenv.Source(t, "tmpfs")
	for backend, want := range map[Backend]string{
		Native:    "a native mount has the SELinux labels of its source",
		Auto:      "context=system_u:object_r:container_file_t:s0:c1,c2",
		Relay:     "context=system_u:object_r:container_file_t:s0:c1,c2",
		Translate: "context=system_u:object_r:container_file_t:s0:c1,c2",
	} {
		o := Options{Map: idmap.Identity(), Backend: backend, MountOptions: label, Daemon: testenv.Binary(t)}
		_, err := Mount(context.Background(), source, testenv.Dir(t), o)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", backend, err, want)
		}
		if errors.Is(err, detect.ErrUnsupported) != (backend == Native) {
			t.Errorf("%s: unsupported? %v", backend, err)
		}
	}
}

// TestLabelsWithoutSELinux asks mount(8), too: it drops them without a word.
func TestLabelsWithoutSELinux(t *testing.T) {
	defer func(was func() bool) { selinuxActive = was }(selinuxActive)
	selinuxActive = func() bool { return false }
	o, warnings, err := mountOptions("ro," + label + ",rootcontext=a:b:c:s0")
	if err != nil || !o.Labels.IsZero() || o.String() != "ro" || len(warnings) != 2 {
		t.Errorf("got %+v, %q, %v", o, warnings, err)
	}
	testenv.RequireRoot(t)
	dir := testenv.Source(t, "tmpfs")
	if out, err := exec.Command("mount", "--bind", "-o", label, dir, dir).CombinedOutput(); err != nil {
		t.Errorf("mount --bind -o %s: %v\n%s", label, err, out)
	}
	testenv.Unmount(t, dir)
}
