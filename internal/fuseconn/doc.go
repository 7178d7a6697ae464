// Package fuseconn carries the messages of a FUSE connection: requests from the
// kernel to a handler, the handler's answers back, and what the server tells
// the kernel unasked. It knows the headers of the messages and nothing of file
// systems, and the handler knows nothing of what carries them.
//
//	c, err := fuseconn.Open(dev, logger) // has read INIT
//	...                                  // c.Init says what the kernel can do
//	err = c.Serve(handler)               // answers it, and serves from then on
//	...
//	c.Wait()                             // until the file system is unmounted
//
// # Guarantees
//
//   - Each request that the kernel waits for is answered: after a panic, by a
//     handler that has no answer, and with an errno that the kernel would refuse
//     it is EIO. So is a message of another length than its header says.
//   - A request that blocks keeps nobody else waiting: before a thread handles
//     one it sees to it that another waits for the next, or, over /dev/fuse and
//     while requests come one at a time, somebody looks every soloLook whether it
//     takes long. At most maxThreads are under way at a time.
//   - A request that waits for another process, whose handler says Deferred or
//     Suspended, has no thread and does not count: there may be any number. Over
//     io_uring each keeps its thread, and there may be maxRingWaits.
//   - Only the end of the connection ends it. A read(2) or write(2) that fails for
//     another reason, such as a memory limit, is repeated after a pause.
//   - An INTERRUPT that overtakes its request is kept until the request is there.
//   - When the connection ends, all requests under way are interrupted, and Wait
//     returns when the last of them is done.
//
// The messages are those of include/uapi/linux/fuse.h.
package fuseconn
