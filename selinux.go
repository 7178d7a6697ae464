package idmount

import (
	"fmt"

	"github.com/idmount/idmount/detect"
	"github.com/idmount/idmount/internal/mntopt"
	"github.com/idmount/idmount/internal/sys"
)

// selinuxActive is a variable for tests.
var selinuxActive = sys.RunsSELinux

// mountOptions are the options of the mount in a list, and warnings about those that
// do nothing.
func mountOptions(list string) (mntopt.Options, []string, error) {
	l, err := mntopt.ParseList(list)
	if err != nil {
		return mntopt.Options{}, nil, err
	}
	for name := range l.Own {
		return mntopt.Options{}, nil, fmt.Errorf("mount option %q: it is a field of Options", name)
	}
	if l.Remount {
		return mntopt.Options{}, nil, fmt.Errorf("mount option %q: it is for Remount", "remount")
	}
	var warnings []string
	for _, name := range l.NoEffect {
		warnings = append(warnings, fmt.Sprintf("mount option %q has no effect on an ID-mapped mount", name))
	}
	// Without SELinux the kernel does not know these options. mount(8) drops them too.
	if !l.Mount.Labels.IsZero() && !selinuxActive() {
		for _, label := range l.Mount.Labels.All() {
			warnings = append(warnings, fmt.Sprintf("mount option %q has no effect: this kernel does not run SELinux", label.Name))
		}
		l.Mount.Labels = mntopt.Labels{}
	}
	return l.Mount, warnings, nil
}

// choose is detect.Choose for a mount with these options. SELinux labels belong to a
// superblock, and a native mount shares the source's: then auto takes a FUSE backend.
func choose(report *detect.Report, want Backend, o mntopt.Options) (detect.Choice, error) {
	if o.Labels.IsZero() {
		return detect.Choose(report, want)
	}
	switch want {
	case Native:
		return detect.Choice{}, fmt.Errorf("mount option %q: a native mount has the SELinux labels of its source; backends relay and translate take it: %w",
			o.Labels.All()[0].Name, detect.ErrUnsupported)
	case Auto:
		choice, err := detect.Choose(report, Relay)
		if err != nil {
			choice, err = detect.Choose(report, Translate)
		}
		choice.Reason += "; a native mount can't have its own SELinux labels"
		return choice, err
	}
	return detect.Choose(report, want)
}
