// Package server is what a process is that serves a mount: what it takes from the
// process that has started it, and what not.
//
// A server lives as long as its mount, and works for everybody who uses that. So
// nothing of its starter's may reach it: neither what limits the starter (ulimit,
// nice, CPU affinity, signal mask, cgroup) nor what the starter has open or where it is.
//
//	server.Start(cmd, keep)         // starter: cmd runs with a new process's attributes
//	server.CloseInherited(fds...)   // server: only what was handed over stays open
//	server.RaiseLimits(...)         // server: resource limits, as high as they can be
//	server.EnterScope(target)       // server: a cgroup of its own, by way of systemd
//	server.EnterOwnRoot()           // server: see Namespace
//	server.SetOOMScore()
//
// # Mount namespaces
//
// A mount belongs to a mount namespace, and ends with it. A namespace ends with its
// last process, so the server of a mount must not be one: it would keep the
// namespace, the mount and the source for ever. Unless the namespace is that of
// process 1, which outlives the server, the server is started in a copy of it. The
// server empties the copy (EnterOwnRoot) and enters the original for two things only:
// to attach the mount and, when it is told to end, to unmount it.
package server
