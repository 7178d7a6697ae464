#!/bin/sh
# Runs a command with FUSE over io_uring switched on, where the kernel has it.
set -u
switch=/sys/module/fuse/parameters/enable_uring

if [ -w "$switch" ] && [ "$(cat "$switch")" = N ]; then
	# It is switched off by a process of its own too, for this one may be killed.
	setsid sh -c 'while kill -0 "$1" 2>/dev/null; do sleep 0.2; done; echo N >"$2"' sh $$ "$switch" </dev/null >/dev/null 2>&1 &
	keeper=$!
	trap 'kill "$keeper"; echo N >"$switch"' EXIT
	trap 'exit 130' INT TERM
	echo Y >"$switch"
fi
"$@"
