package fuseconn

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestRequestTimeout(t *testing.T) {
	for _, c := range []struct {
		byDefault, most string
		want            uint16
	}{
		{"", "", 0}, // before Linux 6.15
		{"0\n", "0\n", 0},
		{"20\n", "0\n", 65535}, // the server asks for more
		{"20\n", "60\n", 60},
		{"0\n", "60\n", 60},
		{"0\n", "3\n", 15}, // what the kernel makes of it
	} {
		dir := t.TempDir()
		for name, text := range map[string]string{"default_request_timeout": c.byDefault, "max_request_timeout": c.most} {
			if text != "" {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
		if got := requestTimeout(dir); got != c.want {
			t.Errorf("default %q, maximum %q: %d, want %d", c.byDefault, c.most, got, c.want)
		}
	}
}

// TestAskForTimeout: the answer to INIT asks for a limit where the kernel knows of them.
func TestAskForTimeout(t *testing.T) {
	for _, c := range []struct {
		kernel  uint64
		timeout uint16
		asked   bool
		limit   time.Duration
	}{
		{0, 0, false, 0},
		{capRequestTimeout, 0, false, 0},
		{0, 15, false, 12 * time.Second},
		{capRequestTimeout, 15, true, 12 * time.Second},
	} {
		conn := &Conn{Init: Init{Flags: c.kernel}, Timeout: c.timeout}
		out := make([]byte, initOutSize)
		binary.NativeEndian.PutUint32(out[outHeaderSize+32:], 0x80) // flags2, without FUSE_INIT_EXT
		conn.askTimeout(out)
		flags, flags2 := binary.NativeEndian.Uint32(out[outHeaderSize+12:]), binary.NativeEndian.Uint32(out[outHeaderSize+32:])
		seconds := binary.NativeEndian.Uint16(out[outHeaderSize+40:])
		if c.asked != (flags&initExt != 0 && flags2 == capRequestTimeout>>32 && seconds == c.timeout) || conn.Limit != c.limit {
			t.Errorf("%+v: flags %#x, %#x, %d s, limit %v", c, flags, flags2, seconds, conn.Limit)
		}
	}
}
