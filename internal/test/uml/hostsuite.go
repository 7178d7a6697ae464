package uml

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// unpackHost unpacks packages of the host's own Debian suite, and what of their
// dependencies the host lacks, below dir.
func unpackHost(ctx context.Context, dir string, packages ...string) error {
	codename, err := hostSuite("/etc/os-release")
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "idmount-apt-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	// The programs run on the host's libraries. Resolving against the host's
	// dpkg status gives the packages that are missing, and only those.
	var errs []error
	for i, m := range mirrors(ctx) {
		a, err := newApt(ctx, filepath.Join(work, fmt.Sprint(i)), m.source(codename), "/var/lib/dpkg/status")
		if err != nil {
			return err
		}
		if err = a.update(ctx); err == nil {
			err = a.get(ctx, append([]string{"install", "--download-only", "--reinstall", "--no-install-recommends"}, packages...)...)
		}
		if err == nil {
			return a.unpack(ctx, "cache/archives/*.deb", dir)
		}
		errs = append(errs, fmt.Errorf("%s: %w", m.uri, err))
	}
	return errors.Join(errs...)
}

// hostSuite is the name of the Debian release that the host runs.
func hostSuite(osRelease string) (string, error) {
	text, err := os.ReadFile(osRelease)
	if err != nil {
		return "", err
	}
	values := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			values[key] = strings.Trim(value, `"`)
		}
	}
	if values["ID"] != "debian" || values["VERSION_CODENAME"] == "" {
		return "", fmt.Errorf("%s: the host is %q, not a Debian release", osRelease, values["ID"])
	}
	return values["VERSION_CODENAME"], nil
}
