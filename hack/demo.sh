#!/bin/sh
# The walk-through for people: on this kernel by each backend, on a file system
# that the kernel can't idmap, and on a kernel that can't idmap at all.
#
#   hack/demo.sh IDMOUNT
set -eu

idmount=$(realpath "$1")
cd "$(dirname "$0")/.."

# In a mount namespace of its own nothing can be left behind.
if [ "${IDMOUNT_DEMO-}" != inside ]; then
	IDMOUNT_DEMO=inside exec unshare --mount --propagation private "$0" "$idmount"
fi

story=$PWD/internal/test/walkthrough/walkthrough.sh
work=$(mktemp -d)
chmod 711 "$work" # users 1001 and 1002 have to get through
trap 'cd /; umount "$work/source" 2>/dev/null || true; umount "$work/fs" 2>/dev/null || true; rm -rf "$work"' EXIT

title() { printf '\n======== %s\n\n' "$*"; }

mkdir "$work/fs" "$work/source"
truncate -s 64M "$work/image"
mkfs.ext4 -q "$work/image"
mount -o loop "$work/image" "$work/fs"

for backend in native relay translate; do
	title "backend $backend, on ext4"
	code=0
	sh "$story" "$idmount" "$backend" "$work/fs" >"$work/out" 2>&1 || code=$?
	cat "$work/out"
	if [ "$code" -ne 0 ]; then
		if grep -q 'not supported here' "$work/out"; then
			echo "(This kernel has no $backend; the others have to do.)"
		else
			exit "$code"
		fi
	fi
done

title "backend auto, on overlayfs, which the kernel can't idmap"
mkdir "$work/fs/lower" "$work/fs/upper" "$work/fs/work"
mount -t overlay overlay -o "lowerdir=$work/fs/lower,upperdir=$work/fs/upper,workdir=$work/fs/work" "$work/source"
sh "$story" "$idmount" auto "$work/source"

title "backend auto, on Linux 5.10, which has no idmapped mounts"
umlrun=$work/umlrun
CGO_ENABLED=0 ${GO:-go} build -o "$umlrun" ./internal/test/uml/umlrun
cp "$story" "$idmount" "$work/"
code=0
"$umlrun" --suite bullseye --module fuse --expose "$work" --timeout 3m -- \
	sh -c 'uname -sr; exec sh "$0" "$1" auto /tmp translate' "$work/walkthrough.sh" "$work/idmount" || code=$?
case $code in
0) ;;
77) echo "(Debian's user-mode-linux package can't be had here, so this part is left out.)" ;;
*) exit "$code" ;;
esac

title "all of it worked"
