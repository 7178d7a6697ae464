package bench

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Machine is what the figures depend on.
type Machine struct {
	Kernel     string `json:"kernel"`
	CPU        string `json:"cpu"`
	CPUs       int    `json:"cpus"`
	Memory     uint64 `json:"memory"`      // bytes
	FileSystem string `json:"file_system"` // type of the directory's
}

func (m Machine) String() string {
	return fmt.Sprintf("Linux %s, %d × %s, %d GiB, %s", m.Kernel, m.CPUs, m.CPU, (m.Memory+1<<29)>>30, m.FileSystem)
}

func describeMachine(dir string) Machine {
	m := Machine{CPUs: runtime.NumCPU(), CPU: "unknown processor", FileSystem: "unknown"}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.Memory = uint64(info.Totalram) * uint64(info.Unit)
	}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range bytes.Lines(text) {
			key, value, ok := strings.Cut(string(line), ":")
			if ok && strings.TrimSpace(key) == "model name" {
				m.CPU = strings.Join(strings.Fields(value), " ")
				break
			}
		}
	}
	// The deepest mount above the directory.
	all, err := mountinfo.GetMounts(mountinfo.ParentsFilter(dir))
	longest := -1
	for _, i := range all {
		if err == nil && len(i.Mountpoint) >= longest {
			longest, m.FileSystem = len(i.Mountpoint), i.FSType
		}
	}
	return m
}

// peerVersion is what a peer's program says of itself, "" for other systems.
func peerVersion(s System) string {
	if !s.Peer() {
		return ""
	}
	program, err := exec.LookPath(s.Kind)
	if err != nil {
		return ""
	}
	out, _ := exec.Command(program, "--version").Output()
	for line := range strings.Lines(string(out)) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), filepath.Base(program)); ok {
			return strings.TrimSpace(strings.TrimPrefix(strings.TrimPrefix(rest, ":"), " version"))
		}
	}
	return ""
}
