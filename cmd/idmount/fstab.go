package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/idmount/idmount/internal/mntopt"
)

// fstabWarnings names the lines of an fstab(5) that want an ID-mapped mount and get
// another one: mount(8) never calls its helper for them. A file that can't be read
// has none.
func fstabWarnings(path string) []string {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var warnings []string
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		fields := strings.Fields(line)
		if len(fields) < 4 || strings.HasPrefix(fields[0], "#") || fields[2] != "idmount" && fields[2] != "fuse.idmount" {
			continue
		}
		list, err := mntopt.ParseHelper(strings.ReplaceAll(fields[3], `\040`, " "), mntopt.Mount8, true)
		switch {
		case errors.Is(err, mntopt.ErrBind):
			warnings = append(warnings, fmt.Sprintf("%s line %d: %v", path, number, err))
		case err == nil && len(list.Own["X-mount.idmap"]) > 0:
			warnings = append(warnings, fmt.Sprintf("%s line %d: mount(8) keeps X-mount.idmap for itself: write map=", path, number))
		}
	}
	return warnings
}
