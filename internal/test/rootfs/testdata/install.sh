# Container root's work in the mounted root: packages, and files of every kind
# that a package seldom has.

dpkg -i /srv/debs/*.deb >/tmp/dpkg.out 2>&1 || { cat /tmp/dpkg.out; exit 1; }
rm /tmp/dpkg.out

# A user, with a home made from /etc/skel.
useradd --create-home --uid 1000 alice

# Programs with privileges.
cp /bin/grep /usr/local/bin/capgrep
setcap cap_net_raw+ep /usr/local/bin/capgrep
install -m 4755 /usr/bin/id /usr/local/bin/suid-id
install -m 2755 -g mail /usr/bin/id /usr/local/bin/sgid-id

# ACLs, named, default and inherited; setgid directories; other xattrs.
mkdir -m 2770 /srv/shared
chgrp mail /srv/shared
setfacl -m u:alice:rwx,g:shadow:rx,d:u:alice:rwx,d:g:shadow:rx /srv/shared
echo inherited >/srv/shared/file
mkdir /srv/shared/dir
setpriv --reuid 1000 --regid 1000 --clear-groups sh -c 'umask 077; echo hers >/srv/shared/hers; mkdir /srv/shared/her-dir'
setfacl -x g:shadow /srv/shared/dir
setfattr -n user.note -v 'seen by all' /srv/shared/file

# Other kinds of files, links, and renames.
mkdir /srv/kinds
cd /srv/kinds
mkfifo fifo
echo one >file
ln file linked
ln -s ../nowhere symlink
chown -h alice:mail symlink
chown alice:alice file
echo two >new
mv new file2
mv -T /srv/shared/dir dir
mkdir sub
cp -a /usr/share/doc/plocate sub/
tar -C /srv --acls --xattrs -cf - shared kinds/sub | tar -xpf - -C /srv/kinds/sub --acls --xattrs --xattrs-include='*'
