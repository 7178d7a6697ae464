package fuseconn

import (
	"sync"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/internal/sys"
)

// channel is a descriptor of the connection that is read by one thread. What is
// read from it has to be answered on it, before it is closed.
type channel struct {
	fd     int
	own    bool // the descriptor is not the connection's first
	reader bool // a thread reads from it
	uses   int  // requests from it that wait
}

// channels are those that no thread reads from, and that wait for answers. The next
// thread takes one of them, so there are never more than there have been threads.
type channels struct {
	mu   sync.Mutex
	idle map[*channel]struct{}
	open int // those with a descriptor of their own
}

// takeChannel returns a channel for a thread. The device is opened anew if no idle
// channel is left: the kernel looks a request up, when it is answered, in a list of its
// descriptor.
func (c *Conn) takeChannel() *channel {
	c.channels.mu.Lock()
	defer c.channels.mu.Unlock()
	for ch := range c.channels.idle {
		delete(c.channels.idle, ch)
		ch.reader = true
		return ch
	}
	if c.Channels == 0 || c.channels.open < c.Channels {
		if fd, err := sys.FuseClone(c.fd); err == nil {
			c.channels.open++
			return &channel{fd: fd, own: true, reader: true}
		}
	}
	return &channel{fd: c.fd, reader: true} // no descriptors left, or no /dev/fuse here
}

// leaveChannel is called by a thread that reads from a channel no more.
func (c *Conn) leaveChannel(ch *channel) {
	c.channels.mu.Lock()
	defer c.channels.mu.Unlock()
	ch.reader = false
	if ch.uses > 0 && ch.own {
		if c.channels.idle == nil {
			c.channels.idle = make(map[*channel]struct{})
		}
		c.channels.idle[ch] = struct{}{}
	}
	c.channels.closeUnused(ch)
}

// useChannel keeps a channel open until releaseChannel.
func (c *Conn) useChannel(ch *channel) {
	c.channels.mu.Lock()
	defer c.channels.mu.Unlock()
	ch.uses++
}

func (c *Conn) releaseChannel(ch *channel) {
	c.channels.mu.Lock()
	defer c.channels.mu.Unlock()
	ch.uses--
	c.channels.closeUnused(ch)
}

func (s *channels) closeUnused(ch *channel) {
	if ch.reader || ch.uses > 0 || !ch.own {
		return
	}
	delete(s.idle, ch)
	s.open--
	unix.Close(ch.fd)
}
