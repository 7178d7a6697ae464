#!/bin/sh
# NFS through idmount, in a guest that serves it at /mnt/nfs: see nfs_test.go.
#
#   nfs.sh IDMOUNT squash|no_squash VERSION TESTS
#
# TESTS is the test program, which opens a file for execution if it is told so.
# The server's tree is /mnt/nfs/server, and /mnt/nfs/vVERSION the client's mount.
# RPC_NFSD starts the server again. Every line is checked; the first that is
# wrong ends it with 1.
set -u
idmount=$1 squash=$2 version=$3 tests=$4
nfs=/mnt/nfs/v$version server=/mnt/nfs/server
cd /mnt/nfs

fail() { echo "nfs$version $squash: $*" >&2; exit 1; }
is() { [ "$2" = "$3" ] || fail "$1: want '$2', got '$3'"; echo "ok: $1: $3"; }
owner() { stat -c '%u:%g' "$1"; }
as() { # UID GROUPS command
	id=$1 groups=$2
	shift 2
	setpriv --reuid "$id" --regid "$id" --groups "$groups" -- "$@"
}
# runs is as for a program whose execution is tried: setpriv still has root's
# capabilities when it executes one.
runs() { # UID GROUPS program arguments
	id=$1 groups=$2
	shift 2
	as "$id" "$groups" sh -c 'exec "$@"' sh "$@"
}
# finishes SECONDS command: the command ends in time. It may not be killable, so
# it is not waited for.
finishes() {
	seconds=$1
	shift
	("$@"; echo "$?" >/tmp/finished) &
	while [ "$seconds" -gt 0 ]; do
		[ ! -s /tmp/finished ] || { code=$(cat /tmp/finished); rm /tmp/finished; return "$code"; }
		sleep 1
		seconds=$((seconds - 1))
	done
	return 99
}

mkdir $server/home $server/team $server/private
chown 1000:1000 $server/home
chmod 700 $server/home
chown 1001:2000 $server/team
chmod 2770 $server/team
mkdir view

# refused SOURCE MAP: the kernel's own ID-mapped mount is refused: EINVAL since
# there is such a call (5.12), ENOSYS before.
refused() {
	said=$($idmount mount --backend native --map "$2" "$1" view 2>&1) && fail "a native mount of NFS"
	case $said in
	*"(mount_setattr: invalid argument)"* | *"(mount_setattr: function not implemented)"*) ;;
	*) fail "a native mount: $said" ;;
	esac
	echo "ok: natively: ${said#*: }" | head -n 1
}
refused $nfs b:1000:101000:2000

answer=$($idmount mount --json --map b:1000:101000:2000 $nfs view) || fail "mount: $answer"
access=$(echo "$answer" | sed -n 's/.*"access": "\(.*\)".*/\1/p')
if [ $squash = squash ]; then want=caller; else want=daemon; fi
is "access that was chosen" $want "$access"

# A user's own files: theirs in the view and on the server.
as 101000 101000 sh -c 'umask 077; echo one >view/home/f && echo two >>view/home/f && mv view/home/f view/home/g' || fail "a user cannot work in their home"
is "content on the server" "one two" "$(tr '\n' ' ' <$server/home/g | sed 's/ $//')"
is "owner on the server" 1000:1000 "$(owner $server/home/g)"
is "owner in the view" 101000:101000 "$(owner view/home 2>/dev/null)"
as 101000 101000 chmod 644 view/home/g || fail "chmod"
is "mode on the server" 644 "$(stat -c %a $server/home/g)"

# Supplementary groups count, on the server too.
as 101002 102000 sh -c 'echo text >view/team/t' || fail "a member of the group cannot write"
is "owner of a file in a group's directory" 1002:2000 "$(owner $server/team/t)"
as 101002 101002 cat view/team/t 2>/dev/null && fail "who is not in the group can read"

# Root, whom the map does not have, may what the server lets it.
if [ $squash = squash ]; then
	chmod 600 $server/home/g
	cat view/home/g 2>/dev/null && fail "root reads a private file that the server refuses it"
	echo "ok: root is refused"
fi

# A program that its user may execute and not read: the NFS client opens it for the
# kernel, and so does this mount. Where the owner is nobody to the server, or may not
# read it either, that takes passthrough.
kernel=$(uname -r | awk -F. '{ print $1 * 100 + $2 }')
mkdir $server/bin
cp $tests /run/try-open
chmod 0755 /run/try-open
for mode in 0711 0111 4111 0741 0710; do
	for id in 0 1000; do
		cp /bin/true $server/bin/$id.$mode
		chown $id:$id $server/bin/$id.$mode
		chmod $mode $server/bin/$id.$mode
	done
done
for program in $(ls $server/bin); do
	runs 1001 1001 $nfs/bin/$program 2>/dev/null
	code=$?
	case $squash:$program in squash:0.*0 | squash:1000.*0) ;; squash:1000.07*) ;; squash:*) [ $kernel -ge 609 ] || code=126 ;; esac
	runs 101001 101001 view/bin/$program 2>/dev/null
	is "exit code of the program $program" $code $?
	as 1001 1001 cat $nfs/bin/$program >/dev/null 2>&1 && fail "on the source $program can be read"
	as 101001 101001 cat view/bin/$program >/dev/null 2>&1 && fail "$program can be read"
	# __FMODE_EXEC is the kernel's: a program that gives it to open(2) or openat2(2)
	# gets no more than without.
	said=$(as 101001 101001 /run/try-open try-open view/bin/$program)
	is "open(2) and openat2(2) of $program for execution" "-1 13 -1 22" "$said"
done
# Several at a time, then those who may read it.
if [ $squash != squash ] || [ $kernel -ge 609 ]; then
	cp /bin/sleep $server/bin/sleep
	chown 0:2000 $server/bin/sleep
	chmod 0741 $server/bin/sleep
	setpriv --reuid 101001 --regid 101001 --clear-groups -- sh -c 'exec view/bin/sleep 100' &
	slow=$!
	for i in 1 2 3 4 5 6 7 8 9 10; do
		[ "$(readlink /proc/$slow/exe)" != /mnt/nfs/view/bin/sleep ] || break
		sleep 0.3
	done
	is "program that runs" /mnt/nfs/view/bin/sleep "$(readlink /proc/$slow/exe)"
	runs 101003 101003 view/bin/sleep 0 || fail "a program that runs already"
	kill $slow
	wait $slow 2>/dev/null
	for i in 1 2 3 4 5 6 7 8 9 10; do # the kernel tells the end of a file after close(2)
		as 101002 102000 cmp view/bin/sleep /bin/sleep 2>/dev/null && break || sleep 0.3
	done
	as 101002 102000 cmp view/bin/sleep /bin/sleep || fail "who may read a program that has ended"
	echo "ok: a program twice at a time, and read afterwards"
fi

# An open file without a name goes on working, and nothing is left of it.
as 101000 101000 sh -c 'cd view/home && echo unnamed >u && exec 3<>u && rm u && ls -la . >/dev/null && echo more >>/proc/self/fd/3 && cat <&3 >out' || fail "an unlinked file"
is "content of an unlinked file" "unnamed more" "$(tr '\n' ' ' <$server/home/out | sed 's/ $//')"
for i in 1 2 3 4 5 6 7 8 9 10; do
	left=$(ls -A $server/home | grep -c '^\.nfs')
	[ "$left" = 0 ] || sleep 0.3
done
is "silly-renamed files that are left" 0 "$left"

# A file that nobody has open is gone at once, and so can its directory be.
as 101000 101000 sh -c 'cd view/home && : >closed && cat closed && ls -l closed' >/dev/null || fail "a file to remove"
sleep 1 # the kernel tells the end of a file after close(2)
as 101000 101000 rm view/home/closed
is "what is left of a file that nobody has open" "" "$(ls -A $server/home | grep '^\.nfs')"
for i in 1 2; do
	as 101000 101000 sh -c 'cd view/home && mkdir many && for i in $(seq 20); do echo $i >many/$i; done && ls -l many && cat many/* && mv many/1 many/2' >/dev/null || fail "a directory to remove"
	as 101000 101000 rm -r view/home/many || fail "rm -r"
done
as 101000 101000 sh -c 'cd view/home && for i in $(seq 50); do mkdir many && echo $i >many/f && exec 3<many/f && rm many/f && exec 3<&- && rmdir many || exit; done' || fail "rmdir after close"
is "what is left of a directory that is removed" "" "$(ls -A $server/home | grep many)"

# A lock is the server's: others of the mount's source and the server have it.
as 101000 101000 sh -c 'exec 3<>view/home/out && flock 3 && : >/tmp/locked && while [ ! -e /tmp/unlock ]; do sleep 0.1; done' &
holder=$!
while [ ! -e /tmp/locked ]; do sleep 0.1; done
as 1000 1000 flock -n $nfs/home/out true && fail "a lock is not seen on the source"
on=$(printf '%02x:%02x:%d' $(mountpoint -d $server | tr : ' ') "$(stat -c %i $server/home/out)")
grep -q " $on " /proc/locks || fail "the server has no lock on $on: $(cat /proc/locks)"
: >/tmp/unlock
wait $holder
echo "ok: a lock is the server's"

# What changes on the server is seen.
as 101000 101000 ls view/home >/dev/null
echo changed >$server/home/fresh
chown 1000:1000 $server/home/fresh
is "a file that the server has made" changed "$(as 101000 101000 cat view/home/fresh)"

# A file replaced on the server: the open one is stale, the name is new.
as 101000 101000 sh -c 'exec 3<view/home/fresh; : >/tmp/opened; while [ ! -e /tmp/replaced ]; do sleep 0.1; done; cat <&3 >/dev/null 2>/tmp/stale' &
reader=$!
while [ ! -e /tmp/opened ]; do sleep 0.1; done
rm $server/home/fresh
echo other >$server/home/fresh
chown 1000:1000 $server/home/fresh
echo 3 >/proc/sys/vm/drop_caches
: >/tmp/replaced
wait $reader
echo "ok: reading the replaced file said: $(cat /tmp/stale)"
for i in 1 2 3 4 5 6 7; do # NFS looks again after some seconds at most
	text=$(as 101000 101000 cat view/home/fresh 2>&1)
	[ "$text" != other ] || break
	sleep 1
done
is "a file that the server has replaced" other "$text"

# A tree that the server has replaced while the client has all of it in its cache:
# the first who asks sees the new one.
for i in 1 2 3 4 5; do
	rm -rf $server/tree
	mkdir $server/tree $server/tree/below
	echo tree $i >$server/tree/below/f
	chown -R 1000:1000 $server/tree
	[ $((i % 2)) = 0 ] || as 101000 101000 sh -c 'echo new >view/tree/below/new' || fail "create in a tree that the server has replaced"
	text=$(as 101000 101000 cat view/tree/below/f 2>&1)
	[ "$text" = "tree $i" ] || break
	as 101000 101000 sh -c 'for j in 1 2 3; do ls -l view/tree view/tree/below; cat view/tree/below/f; done' >/dev/null
done
is "a tree that the server has replaced" "tree 5" "$text"

# The server goes away and comes back. Who asks it waits; what is beside it works.
mkdir /tmp/beside /tmp/beside/nfs /tmp/both
echo here >/tmp/beside/file
mount --bind $nfs /tmp/beside/nfs
$idmount mount --recursive --access caller --map b:0:100000:65536 /tmp/beside /tmp/both >/dev/null || fail "mount with a submount"
as 101000 101000 cat /tmp/both/nfs/home/fresh >/dev/null || fail "read through the submount"
echo 3 >/proc/sys/vm/drop_caches
$RPC_NFSD 0 || fail "stop the server"
for i in $(seq 1 30); do
	as 101000 101000 sh -c "cat /tmp/both/nfs/home/g >/dev/null; echo done >/tmp/waited.$i" 2>/dev/null &
done
sleep 1
finishes 10 cat /tmp/both/file >/tmp/text || fail "a file beside a server that does not answer: $?"
is "a file beside a server that does not answer" here "$(cat /tmp/text)"
$RPC_NFSD -V 3 -V 4.2 4 || fail "start the server"
{ echo Y >/proc/fs/nfsd/v4_end_grace; } 2>/dev/null
for i in $(seq 1 60); do
	[ "$(ls /tmp | grep -c '^waited')" != 30 ] || break
	sleep 1
done
is "readers that the restarted server has answered" 30 "$(ls /tmp | grep -c '^waited')"
is "a file after the restart" other "$(as 101000 101000 cat view/home/fresh)"
as 101000 101000 sh -c 'echo again >view/home/after' || fail "create after the restart"
is "owner of a file made after the restart" 1000:1000 "$(owner $server/home/after)"
$idmount umount /tmp/both || fail "umount"
umount /tmp/beside/nfs
$idmount umount view || fail "umount"

# A pod with a user namespace of its own (hostUsers: false) and this volume.
unshare --user sleep 1000 &
pod=$!
sleep 0.5
echo "0 100000 65536" >/proc/$pod/uid_map && echo "0 100000 65536" >/proc/$pod/gid_map || fail "map the namespace"
inpod() { # UID command
	id=$1
	shift
	nsenter --target $pod --user --setuid "$id" --setgid "$id" -- "$@"
}
mkdir $server/volume
chmod 1777 $server/volume
refused $nfs/volume /proc/$pod/ns/user # what kubelet reports
$idmount mount --access=$want --map /proc/$pod/ns/user $nfs/volume view >/dev/null || fail "mount the volume"
inpod 1000 sh -c 'echo data >view/file && mkdir view/dir && cp view/file view/dir/copy' || fail "the pod's user cannot write"
is "owner in the pod" 1000:1000 "$(inpod 1000 stat -c %u:%g view/file)"
is "owner on the host" 101000:101000 "$(owner view/file)"
is "owner on the server" 1000:1000 "$(owner $server/volume/dir/copy)"
inpod 0 sh -c 'echo data >view/root' || fail "the pod's root cannot write"
if [ $squash = squash ]; then
	is "owner of what the pod's root has made, on the server" 65534:65534 "$(owner $server/volume/root)"
else
	is "owner of what the pod's root has made, on the server" 0:0 "$(owner $server/volume/root)"
	is "owner of what the pod's root has made, in the pod" 0:0 "$(inpod 0 stat -c %u:%g view/root)"
fi
# Its mode lets the pod's root read a program, the server does not: as its memory
# could be read then, it is not run.
cp /bin/true $server/volume/own
chmod 0711 $server/volume/own
if [ $squash = squash ]; then want=126; else want=0; fi
inpod 0 sh -c 'exec view/own' 2>/dev/null
is "exit code of a program that its owner may not read on the server" $want $?
$idmount umount view || fail "umount the volume"
kill $pod
echo "ok: all"
