package conformance

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// output runs a program by the calling thread, whose credentials it inherits.
func output(name string, args ...string) (string, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	cmd := exec.Command(name, args...)
	cmd.Stdout = w
	err = cmd.Start()
	w.Close()
	if err != nil {
		var errno syscall.Errno
		if errors.As(err, &errno) {
			return "", errno
		}
		return "", err
	}
	text, err := io.ReadAll(r)
	if werr := cmd.Wait(); werr != nil {
		return string(text), fmt.Errorf("exit: %s", cmd.ProcessState)
	}
	return string(text), err
}

// identity picks ids and capabilities out of /proc/PID/status.
func identity(status string) string {
	var out []string
	for _, line := range strings.Split(status, "\n") {
		switch name, value, _ := strings.Cut(line, ":"); name {
		case "Uid", "Gid", "CapPrm", "CapEff":
			out = append(out, name+" "+strings.Join(strings.Fields(value), ","))
		}
	}
	return strings.Join(out, " ")
}
