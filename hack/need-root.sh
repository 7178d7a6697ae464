#!/bin/sh
# Stops with a plain sentence when not run as root. $1: the command that needs it.
set -eu
if [ "$(id -u)" -ne 0 ]; then
	echo "$1 mounts file systems, so it has to run as root; you are uid $(id -u)." >&2
	echo "hint: sudo env PATH=\"\$PATH\" $1" >&2
	exit 1
fi
