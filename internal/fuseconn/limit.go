package fuseconn

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// A kernel can have a limit for the age of a request (Linux 6.15). If one gets older, it
// aborts the connection, and so the whole mount. The limit is settled by INIT: it is
// fs.fuse.default_request_timeout unless the server asks for another, and
// fs.fuse.max_request_timeout at most.

const (
	capRequestTimeout = 1 << 42 // FUSE_REQUEST_TIMEOUT
	mostTimeout       = 1<<16 - 1
	leastTimeout      = 15 // FUSE_TIMEOUT_TIMER_FREQ
	sysctls           = "/proc/sys/fs/fuse"
)

// RequestTimeout returns the limit that a mount gets that is made now, in seconds, 0 if it
// gets none. A default that is shorter than it need be does not matter: the server asks for
// more.
func RequestTimeout() uint16 { return requestTimeout(sysctls) }

func requestTimeout(dir string) uint16 {
	seconds := func(name string) int {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return 0 // an older kernel
		}
		n, _ := strconv.Atoi(string(bytes.TrimSpace(text)))
		return n
	}
	most := seconds("max_request_timeout")
	if most <= 0 && seconds("default_request_timeout") <= 0 {
		return 0
	}
	if most <= 0 || most > mostTimeout {
		most = mostTimeout
	}
	return uint16(max(most, leastTimeout))
}

// askTimeout asks for a limit in the answer to INIT, and sets Limit: a request that waits
// has to be answered before.
func (c *Conn) askTimeout(answer []byte) {
	body := answer[outHeaderSize:]
	if c.Timeout == 0 {
		return
	}
	limit := time.Duration(c.Timeout) * time.Second
	c.Limit = limit - limit/5
	if c.Init.Flags&capRequestTimeout == 0 || len(body) < 42 {
		return
	}
	// struct fuse_init_out: flags, flags2, request_timeout.
	flags := binary.NativeEndian.Uint32(body[12:])
	binary.NativeEndian.PutUint32(body[12:], flags|initExt)
	if flags&initExt == 0 {
		binary.NativeEndian.PutUint32(body[32:], 0)
	}
	binary.NativeEndian.PutUint32(body[32:], binary.NativeEndian.Uint32(body[32:])|capRequestTimeout>>32)
	binary.NativeEndian.PutUint16(body[40:], c.Timeout)
}
