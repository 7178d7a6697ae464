#!/bin/sh
# Prints which share of each package's statements a coverage profile has as run.
#
#   hack/cover.sh PROFILE
set -eu

# FILE:from,to STATEMENTS COUNT; a block that several test programs have counts once.
awk 'NR > 1 {
	size[$1] = $2
	if ($3 > 0) run[$1] = 1
}
END {
	for (block in size) {
		package = block
		sub(/\/[^\/]*$/, "", package)
		all[package] += size[block]
		if (block in run) done[package] += size[block]
	}
	for (package in all) printf "%5.1f %%  %s\n", 100 * done[package] / all[package], package
}' "$1" | sort -k3
