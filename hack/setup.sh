#!/bin/sh
# Installs the Debian packages that a make target needs and that are missing.
#
#   hack/setup.sh test|demo|bench|race|soak
#
# Nothing is installed, and no network is used, when all of them are there.
set -eu

demo="acl libcap2-bin util-linux fuse3 e2fsprogs kmod patchelf dpkg"
test="$demo attr xfsprogs btrfs-progs mmdebstrap bindfs mount squashfs-tools squashfuse erofs-utils git rsync sqlite3 dbus-daemon"
bench="$test fuse-overlayfs fio"
soak="$test postgresql"

case "${1-}" in
demo) want=$demo ;;
test) want=$test ;;
bench) want=$bench ;;
soak) want=$soak ;;
race) want="$test gcc libc6-dev" ;;
*)
	echo "usage: $0 test|demo|bench|race|soak" >&2
	exit 2
	;;
esac

if ! command -v dpkg-query >/dev/null 2>&1 || ! command -v apt-get >/dev/null 2>&1; then
	echo "setup: this is no Debian system; install these yourself if a step misses one: $want" >&2
	exit 0
fi

missing=
for package in $want; do
	state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
	[ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
	echo "setup: missing packages, and only root can install them: apt-get install$missing" >&2
	exit 1
fi

echo "setup: installing$missing" >&2
DEBIAN_FRONTEND=noninteractive
export DEBIAN_FRONTEND
# A machine that has lists needs no update; old lists name packages that are gone.
# shellcheck disable=SC2086 # a list of words
install() { apt install -y -q --no-install-recommends $missing; }

# apt waits while another process holds apt's locks.
apt() {
	while ! apt-get "$@" </dev/null >"$log" 2>&1; do
		grep -q 'Could not get lock' "$log" || return 1
		sleep 2
	done
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! install; then
	if ! apt update -q || ! install; then
		cat "$log" >&2
		echo "setup: apt-get could not install$missing" >&2
		exit 1
	fi
fi
