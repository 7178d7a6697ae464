package fuseconn

import (
	"encoding/binary"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFaultsAreNoEnd: a read(2) or write(2) that fails for want of memory does not end the
// connection.
func TestFaultsAreNoEnd(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EFAULT, unix.ENOMEM, unix.EINVAL, unix.EIO, unix.E2BIG} {
		var reads, writes atomic.Int32
		k := connectWith(t, func(in, out [][]byte) (int, bool) { return answer(in, out, "hello") }, func(c *Conn) {
			c.receive = func(fd int, buf []byte) (int, error) {
				if reads.Add(1)%2 == 1 {
					return -1, errno
				}
				return unix.Read(fd, buf)
			}
			c.send = func(fd int, message []byte) (int, error) {
				if writes.Add(1)%2 == 1 {
					return -1, errno
				}
				return unix.Write(fd, message)
			}
		})
		for i := range 10 {
			k.send(50, uint64(10+i), nil)
			want, body := unix.Errno(0), "hello"
			if errno != unix.ENOMEM {
				want, body = unix.EIO, "" // the kernel did not take the answer
			}
			if unique, got, text := k.receive(); unique != uint64(10+i) || got != want || string(text) != body {
				t.Errorf("%v: answer to %d, %v, %q", errno, unique, got, text)
			}
		}
		if errno := k.conn.InvalidateInode(1, 0, 0); errno == 0 {
			k.receive()
		} else if errno == unix.ENOMEM || errno == unix.EFAULT {
			t.Errorf("a notification is lost: %v", errno)
		}
		k.hangUp()
		for _, what := range []string{"read /dev/fuse", "write /dev/fuse"} {
			if n := strings.Count(k.log.String(), what); n != 1 {
				t.Errorf("%v: %d lines in the log about %s:\n%s", errno, n, what, k.log)
			}
		}
	}
}

// TestEnds: what ends the connection does so at once.
func TestEnds(t *testing.T) {
	for _, errno := range []unix.Errno{unix.ENODEV, unix.ECONNABORTED, unix.EBADF, unix.EPERM} {
		k := connectWith(t, func(in, out [][]byte) (int, bool) { return answer(in, out, "") }, func(c *Conn) {
			c.receive = func(int, []byte) (int, error) { return -1, errno }
		})
		k.conn.Wait()
		k.hangUp()
	}
}

// TestMessageOfAnotherLength: a message that can't be made sense of is answered EIO.
func TestMessageOfAnotherLength(t *testing.T) {
	k := connect(t, func(in, out [][]byte) (int, bool) { return answer(in, out, "") })
	message := make([]byte, inHeaderSize+8)
	for _, length := range []uint32{0, inHeaderSize, inHeaderSize + 7, 1 << 31} {
		binary.NativeEndian.PutUint32(message[0:], length)
		binary.NativeEndian.PutUint32(message[4:], opAny)
		binary.NativeEndian.PutUint64(message[8:], 70)
		if _, err := unix.Write(k.fd, message); err != nil {
			t.Fatal(err)
		}
		if unique, errno, _ := k.receive(); unique != 70 || errno != unix.EIO {
			t.Errorf("length %d: answer to %d, %v", length, unique, errno)
		}
	}
	if _, err := unix.Write(k.fd, message[:20]); err != nil {
		t.Fatal(err)
	}
	k.quiet()
}
