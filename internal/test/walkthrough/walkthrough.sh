#!/bin/sh
# A home directory of user 1001, seen and used by user 1002, without any chown.
#
#   walkthrough.sh IDMOUNT BACKEND DIR [EXPECTED]
#
# IDMOUNT is the program, BACKEND what to pass to --backend, DIR a directory on
# the file system to try it on. EXPECTED is the backend that it has to be, if
# that matters. Every fact that is shown is also checked; the first that is
# wrong ends the script with 1. Nothing is left behind.
#
# It needs root, setpriv, and for the parts on ACLs and capabilities setfacl,
# getfacl, setcap and getcap. The ids are plain numbers: no user is added.
set -u

idmount=$1 backend=$2 dir=$3 expected=${4-}
umask 022

say() { printf '%s\n' "$*"; }
show() { printf '    %s\n' "$*"; }
fail() {
	printf 'walk-through: %s\n' "$*" >&2
	exit 1
}
# is WHAT WANT GOT
is() {
	show "$1: $3"
	[ "$2" = "$3" ] || fail "$1: want $2, got $3"
}
owner() { stat -c '%u:%g' "$1"; }
as() {
	id=$1
	shift
	setpriv --reuid "$id" --regid "$id" --clear-groups -- "$@"
}

home=$dir/walkthrough.$$.home
view=$dir/walkthrough.$$.view
probe=$dir/walkthrough.$$.probe
cleanup() {
	code=$?
	trap - EXIT
	cd /
	if grep -qs " $view " /proc/self/mounts; then
		"$idmount" umount "$view" || "$idmount" umount --lazy "$view" || code=1
	fi
	rm -rf "$home" "$probe"
	rmdir "$view" 2>/dev/null || { [ ! -e "$view" ] || code=1; }
	exit "$code"
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# What the source itself can carry, tried without us.
: >"$probe" || fail "cannot write to $dir"
acls=yes caps=yes
setfacl -m u:1001:r "$probe" 2>/dev/null || acls=no
setcap cap_net_raw+ep "$probe" 2>/dev/null || caps=no
rm -f "$probe"

say "User 1001 has a home directory, and user 1002 is to use it as if it were their own."
mkdir "$home" "$view" || fail "cannot make directories in $dir"
echo "a letter" >"$home/letter"
mkdir "$home/papers"
chown -R 1001:1001 "$home"
chmod 700 "$home"
is "owner of the home on disk" 1001:1001 "$(owner "$home")"

say
say "One mount maps disk id 1001 to view id 1002, for users and groups:"
show "idmount mount --map b:1001:1002:1 --backend $backend HOME VIEW"
answer=$("$idmount" mount --map b:1001:1002:1 --backend "$backend" "$home" "$view") || fail "the mount failed"
show "$answer"
[ -z "$expected" ] || case $answer in
"$view: mounted by $expected "*) ;;
*) fail "want backend $expected, got: $answer" ;;
esac
is "owner seen through the mount" 1002:1002 "$(owner "$view/letter")"
is "owner on disk" 1001:1001 "$(owner "$home/letter")"

say
say "User 1002 reads and writes there, and what they make belongs to 1001 on disk:"
is "1002 reads the letter" "a letter" "$(as 1002 cat "$view/letter")"
as 1002 touch "$view/reply" || fail "1002 cannot create a file"
as 1002 sh -c "echo 'dear 1001' >'$view/reply'" || fail "1002 cannot write a file"
is "owner of the reply in the view" 1002:1002 "$(owner "$view/reply")"
is "owner of the reply on disk" 1001:1001 "$(owner "$home/reply")"
is "the reply on disk" "dear 1001" "$(cat "$home/reply")"
as 1002 mkdir "$view/new" || fail "1002 cannot make a directory"
as 1002 mv "$view/reply" "$view/new/reply" || fail "1002 cannot rename a file"
is "owner of a new directory on disk" 1001:1001 "$(owner "$home/new")"
as 1002 chmod 640 "$view/letter" || fail "1002 cannot change a mode"
is "mode that 1002 has set, on disk" 640 "$(stat -c %a "$home/letter")"
if as 1001 ls "$view" >/dev/null 2>&1; then
	fail "1001 can list the view, which belongs to 1002"
fi
show "1001 may not enter the view: there it belongs to 1002"

say
if [ $acls = yes ]; then
	say "ACLs are translated too:"
	as 1002 setfacl -m u:1002:rwx "$view/letter" || fail "1002 cannot set an ACL"
	is "ACL entry in the view" user:1002:rwx "$(getfacl -cnp "$view/letter" | grep '^user:[0-9]')"
	is "ACL entry on disk" user:1001:rwx "$(getfacl -cnp "$home/letter" | grep '^user:[0-9]')"
else
	say "(The source has no ACLs, so there are none to translate.)"
fi

say
if [ $caps = yes ]; then
	say "And so is the user namespace that a file capability holds in:"
	as 1002 cp /bin/true "$view/tool" || fail "1002 cannot copy a program"
	setcap -n 1002 cap_net_raw+ep "$view/tool" || fail "cannot set a file capability"
	is "rootid in the view" "[rootid=1002]" "$(getcap -n "$view/tool" | grep -o '\[rootid=.*\]')"
	is "rootid on disk" "[rootid=1001]" "$(getcap -n "$home/tool" | grep -o '\[rootid=.*\]')"
else
	say "(The source has no file capabilities, so there are none to translate.)"
fi

say
say "Unmounted, everything on disk still belongs to 1001; no chown was needed:"
"$idmount" umount "$view" || fail "the umount failed"
strangers=$(find "$home" ! -uid 1001 -o ! -gid 1001)
is "files of anybody else" "" "$strangers"
is "what the view's directory holds now" "" "$(ls "$view")"
