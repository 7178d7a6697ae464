# Copied up by a change of each kind.
echo more >>dir/file
chmod 600 dir/mode
chown 1000:8 dir/owner
setfattr -n user.upper -v value dir/xattr
setfacl -m u:1001:r dir/acl
touch -d @1100000000 dir/time
truncate -s 3 dir/truncated
printf middle | dd of=dir/big bs=1 seek=200000 conv=notrunc status=none
ln dir/linked dir/third
echo new >dir/replaced.new
mv dir/replaced.new dir/replaced
touch -d @1200000000 capable
setpriv --reuid 1000 --regid 1000 --clear-groups sh -c 'echo user >>capable-shared'
if [ "$SETID" = yes ]; then
	touch -d @1200000000 setuid
	# Who opens it may not do what is done to it.
	setpriv --reuid 1000 --regid 1000 --clear-groups sh -c ': >>setuid-shared'
	setpriv --reuid 1000 --regid 1000 --clear-groups sh -c 'echo user >>setuid-own'
fi
setpriv --reuid 1000 --regid 1000 --clear-groups sh -c 'echo user >>dir/open'

# Gone from below.
rm dir/gone
mv dir/old dir/new
rm -r tree
mkdir tree
echo new >tree/new
mkdir tree/below
rm -r whole
mv renamed moved
echo moved >moved/below/new
rm moved/below/3

# New.
mkdir -p fresh/deep/deeper
mv fresh/deep fresh/renamed
ln -s target fresh/symlink
mkfifo fresh/fifo
mknod fresh/device c 1 5
setpriv --reuid 1000 --regid 1000 --clear-groups sh -c 'echo user >sticky/user; mkdir sticky/own; ln sticky/user sticky/own/linked'
echo group >setgid/file
mkdir setgid/dir
echo again >dir/gone
rm dir/gone
ln -s a dir/gone
rm dir/gone
mkdir dir/gone

# A file that was opened before it was copied up, and one without a name.
exec 3<dir/open
echo later >>dir/open
cat <&3
exec 3<&-
sqlite3 -bail fresh/db 'PRAGMA journal_mode=WAL; CREATE TABLE t (n); INSERT INTO t VALUES (1), (2); SELECT sum(n) FROM t;'

find . -type f -exec sha256sum {} + | sort -k 2
find . ! -type d -printf '%p %M %U:%G %l\n' | sort
find . -type d -printf '%p %M %U:%G\n' | sort
