package idmount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// checkPaths returns source and target as absolute paths without symbolic
// links. Both must be directories, and neither may lie below the other: the
// mount would show itself.
func checkPaths(source, target string) (string, string, error) {
	src, err := directory("source", source)
	if err != nil {
		return "", "", err
	}
	dst, err := directory("target", target)
	if err != nil {
		return "", "", err
	}
	switch {
	case below(dst, src):
		return "", "", &UsageError{Op: "mount", Path: target, Err: fmt.Errorf("the target lies below the source %s", source)}
	case below(src, dst):
		return "", "", &UsageError{Op: "mount", Path: target, Err: fmt.Errorf("the source %s lies below the target", source)}
	}
	return src, dst, nil
}

func directory(what, path string) (string, error) {
	fail := func(err error) (string, error) {
		return "", &UsageError{Op: what, Path: path, Err: unwrapPath(err)}
	}
	if path == "" {
		return "", &UsageError{Op: what, Err: errors.New("the path is empty")}
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return fail(err)
	}
	real, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return fail(err)
	}
	info, err := os.Stat(real)
	if err != nil {
		return fail(err)
	}
	if !info.IsDir() {
		return fail(unix.ENOTDIR)
	}
	return real, nil
}

// below reports whether path lies below dir; no path lies below itself.
func below(path, dir string) bool {
	return path != dir && (dir == "/" || strings.HasPrefix(path, dir+"/"))
}

// unwrapPath takes the cause out of an error that names a path already.
func unwrapPath(err error) error {
	var pathErr *os.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}
