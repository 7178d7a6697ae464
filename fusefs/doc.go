// Package fusefs serves an ID-mapped view of a directory tree over FUSE, for
// kernels and file systems that cannot make an idmapped mount themselves.
//
// # Model
//
// The server holds a private mount of the source and answers the kernel's
// requests from it. One core has two translations:
//
//   - translate: the server turns disk ids to view ids in every answer and view
//     ids to disk ids in every request: owners, POSIX ACLs, and the rootid of
//     security.capability.
//   - relay: the kernel idmaps our FUSE mount (Linux 6.12 and later), so requests
//     and answers carry disk ids and the server passes them on as they are.
//
// The kernel decides about permissions in both (default_permissions). For this
// to come out as on a native idmapped mount, an owner that the map does not
// have is answered as 4294967295, which the kernel takes for "no valid id": it
// shows 65534, matches no caller and is overridden by no capability.
//
//	fs, err := fusefs.New(source, fusefs.Options{Map: m})
//	...
//	err = fs.Start(dev) // dev: /dev/fuse of a mount; returns when it is usable
//	...
//	fs.Wait() // until it is unmounted
//
// # Guarantees
//
//   - No path is ever joined: each operation works on (descriptor, name) or on a
//     descriptor, and follows no symbolic link.
//   - A new file has its right owner from the start: it is created by a thread
//     with the caller's disk ids as file system ids.
//   - What the kernel may keep, and for how long, is said in one place: Cache.
//   - A name or node that the kernel sends is never trusted to be sane.
//
// # Requests
//
// Package fuseconn carries the messages. Those that come most are answered in place
// (hot); go-fuse answers all others. The mount shows a directory of the root, not the
// root, as the kernel keeps no ACL of that (Reroot).
//
// # Caches
//
// An answer carries how long the kernel may keep it. With CacheCoherent that is
// long, and a watch on the source's file system takes it back when somebody
// else changes something there: names by INVAL_ENTRY, attributes and data by
// INVAL_INODE. The events of all file systems that a process serves come from one
// fanotify group (watchGroup). Where files don't open by handle, fanotify marks no file
// system, and each file is marked before it is read (fileMarks). Changes that the server makes itself are not taken back, since the
// kernel that asked for them knows; unless it knows some files as two, of a file system
// that is mounted more than once below the source. An answer that was read while its file
// changed may not be kept, which the watch tells by counters. Directories are
// listed without OPENDIR and then cached. Files that the kernel writes without
// the server (passthrough) have their attributes asked for each time while they
// are open for writing.
//
// Not kept by marks: the attributes of files with several names.
//
// Not kept in any mode: the attributes of files with S_ISUID or S_ISGID. The
// source clears them with the first changed byte, and a cached mode would let
// the changed program run with them.
//
// With CacheExclusive the kernel keeps everything, OPEN is answered ENOSYS, and
// reads and writes name only the node: the server keeps descriptors of its own.
//
// # Set-id bits
//
// The server's threads lack CAP_FSETID unless they act for somebody who has it,
// so the source clears S_ISUID and S_ISGID as it would for the caller. With
// passthrough it does so for everyone: a file that has the bits when it is
// opened is therefore read and written by requests.
//
// # Judging again
//
// The kernel decides by what it has of an inode, which the source may have changed a
// moment ago. Each node has a fingerprint of the owners, the mode and the ACL that the
// kernel has (kernelCopy). A request that the kernel has judged by them is compared with
// what the file has now. If that differs, the call is made with the rights of the caller,
// and the source's kernel decides (rejudge.go).
//
// # Inodes
//
// A node is identified by its file handle where the source can open files by
// handle, and needs no descriptor: directories and files that are open or were of late
// have one, as more is asked of them. Elsewhere (overlay, ramfs, FUSE) a node is
// identified by device and inode number and held by an O_PATH descriptor. Before these
// run short, the kernel is asked to forget nodes that nobody uses (pruner). Past
// a budget, descriptors are closed and opened again by (parent, name), which is
// checked against the identity; a file that was meanwhile renamed below the
// mount then is ESTALE, which makes the kernel look it up again.
//
// Operations borrow descriptors. One is pinned after that only if its file can't be
// found again (see pins), and how many can be pinned is bounded.
//
// # Open files
//
// The handle of an open file is an index into one table. Its descriptor is opened when it
// is needed and closed when others are needed more, where the kernel keeps the file open:
// by passthrough, or as it has been registered for that. Else it is kept, and counted as
// the caller's, who is refused (ENFILE, for locks ENOLCK) to have more than are left for
// others. All that a process may have is divided by budget; if it has none left
// nevertheless, what can be opened again is closed (reclaim).
//
// # Locks
//
// In this order, never the other way: watchGroup.dispatching, fileMarks.dispatching, node.open, backings.mu,
// fileLocks.sys, lockBooks.mu, openFiles.mu, shard.mu, table.mu, fdCache.mu, pruner.mu,
// noticeQueue.mu, lateFinds.mu. Apart from these: mounts.mu, watch.groupMu, watchGroups.mu or
// watchGroup.mu; sharedMarks.mu and fileMarks.mu after it, which has the log's locks alone
// after it. No system call that can block on the source is made under openFiles.mu
// and what follows it. stream.mu comes before node.open, and streams.mu is taken with no
// other lock but that.
package fusefs
