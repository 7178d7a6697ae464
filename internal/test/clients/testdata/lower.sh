mkdir -p dir tree/below whole/below/deep renamed/below sticky setgid
for f in file mode owner xattr acl time gone old linked replaced truncated open; do
	echo "lower $f" >"dir/$f"
done
ln dir/linked dir/second
seq 100000 >dir/big
for i in 1 2 3 4 5 6 7 8 9; do
	echo "$i" >"tree/$i"
	echo "$i" >"tree/below/$i"
	echo "$i" >"whole/below/deep/$i"
	echo "$i" >"renamed/below/$i"
done
ln -s ../dir/file tree/symlink
mkfifo fifo
mknod null c 1 3
setfacl -m u:1000:rw,g:8:r dir/acl
setfattr -n user.lower -v value dir/xattr
cp /bin/true capable
setcap cap_net_raw+ep capable
cp /bin/true setuid
chmod 4755 setuid
cp /bin/true setuid-shared
chmod 6777 setuid-shared
cp /bin/true capable-shared
chmod 777 capable-shared
setcap cap_net_raw+ep capable-shared
cp /bin/true setuid-own
chown 1000:8 setuid-own
chmod 6777 setuid-own
chmod 1777 sticky
chgrp 8 setgid
chmod 2775 setgid
chmod 666 dir/open
touch -d @1000000000 dir/* tree/* whole/below/deep/* renamed/below/* capable setuid *-shared setuid-own
