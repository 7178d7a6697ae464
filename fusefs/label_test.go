package fusefs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/idmount/idmount/idmap"
	"github.com/idmount/idmount/internal/sys"
	"github.com/idmount/idmount/internal/test/testenv"
)

// secctx is struct fuse_secctx with its name and value, padded.
func secctx(name, value string) string {
	b := binary.NativeEndian.AppendUint32(nil, uint32(len(value)))
	b = append(binary.NativeEndian.AppendUint32(b, 0), name+"\x00"+value...)
	return string(append(b, make([]byte, -len(b)&7)...))
}

// secctxs is struct fuse_secctx_header, and contexts.
func secctxs(contexts ...string) string {
	all := strings.Join(contexts, "")
	b := binary.NativeEndian.AppendUint32(nil, uint32(8+len(all)))
	return string(binary.NativeEndian.AppendUint32(b, uint32(len(contexts)))) + all
}

const testLabel = "system_u:object_r:container_file_t:s0:c1,c2\x00"

func TestParseLabel(t *testing.T) {
	selinux := secctx(xattrSELinux, testLabel)
	number := func(at int, n uint32, ext string) string {
		b := []byte(ext)
		binary.NativeEndian.PutUint32(b[at:], n)
		return string(b)
	}
	whole := secctxs(selinux)
	for name, tt := range map[string]struct {
		ext, want string
		bad       bool
	}{
		"nothing":              {},
		"no context":           {ext: secctxs()},
		"one":                  {ext: whole, want: testLabel},
		"without a NUL":        {ext: secctxs(secctx(xattrSELinux, "u:r:t")), want: "u:r:t"},
		"another module's":     {ext: secctxs(secctx("security.SMACK64", "_"))},
		"behind another":       {ext: secctxs(secctx("security.SMACK64", "_"), selinux), want: testLabel},
		"longest":              {ext: secctxs(secctx(xattrSELinux, strings.Repeat("x", maxLabel))), want: strings.Repeat("x", maxLabel)},
		"too long":             {ext: secctxs(secctx(xattrSELinux, strings.Repeat("x", maxLabel+1))), bad: true},
		"two":                  {ext: secctxs(selinux, selinux), bad: true},
		"half a header":        {ext: whole[:4], bad: true},
		"less than its size":   {ext: whole[:len(whole)-8], bad: true},
		"more than its size":   {ext: whole + "\x00\x00\x00\x00\x00\x00\x00\x00", bad: true},
		"more than its count":  {ext: number(4, 0, whole), bad: true},
		"less than its count":  {ext: number(4, 2, whole), bad: true},
		"groups":               {ext: number(4, 32, whole), bad: true},
		"a value past the end": {ext: number(8, 100, whole), bad: true},
		"a value of 4 GiB":     {ext: number(8, 1<<32-1, whole), bad: true},
		"an empty value":       {ext: secctxs(secctx(xattrSELinux, "")), bad: true},
		"a value of NUL":       {ext: secctxs(secctx(xattrSELinux, "\x00")), bad: true},
		"a NUL in the value":   {ext: secctxs(secctx(xattrSELinux, "u:r\x00:t\x00")), bad: true},
		"a newline":            {ext: secctxs(secctx(xattrSELinux, "\n")), bad: true},
		"no name":              {ext: secctxs(secctx("", testLabel)), bad: true},
		"no NUL":               {ext: secctxs("\x01\x00\x00\x00\x00\x00\x00\x00security"), bad: true},
		"not padded":           {ext: number(0, uint32(len(whole)-1), whole[:len(whole)-1]), bad: true},
	} {
		label, errno := parseLabel([]byte(tt.ext))
		if string(label) != tt.want || (errno != 0) != tt.bad {
			t.Errorf("%s: %q, %v", name, label, errno)
		}
	}
}

func FuzzParseLabel(f *testing.F) {
	selinux := secctx(xattrSELinux, testLabel)
	for _, ext := range []string{"", secctxs(), secctxs(selinux), secctxs(secctx("security.SMACK64", "_"), selinux), secctxs(selinux, selinux)} {
		f.Add([]byte(ext))
	}
	f.Fuzz(func(t *testing.T, ext []byte) {
		label, errno := parseLabel(ext)
		if label == nil {
			return
		}
		// What is taken is in the message as the kernel writes it.
		want := xattrSELinux + "\x00" + string(label)
		if errno != 0 || len(label) > maxLabel || len(ext)%8 != 0 || !bytes.Contains(ext, []byte(want)) || bytes.IndexByte(label[:len(label)-1], 0) >= 0 {
			t.Errorf("%q, %v of %q", label, errno, ext)
		}
	})
}

// maker is an echo of what makes files, and says which label is set meanwhile.
type maker struct {
	*echo
	path string
}

func (m maker) label() string {
	text, _ := os.ReadFile(m.path)
	return string(text)
}

func (m maker) Mknod(_ cancel, in *fuse.MknodIn, name string, _ *fuse.EntryOut) fuse.Status {
	return m.hear("mknod %d %q %q", in.Rdev, name, m.label())
}

func (m maker) Mkdir(_ cancel, in *fuse.MkdirIn, name string, _ *fuse.EntryOut) fuse.Status {
	return m.hear("mkdir %d %q %q", in.Mode, name, m.label())
}

func (m maker) Symlink(_ cancel, h *fuse.InHeader, target, name string, _ *fuse.EntryOut) fuse.Status {
	return m.hear("symlink %d %q %q %q", h.NodeId, target, name, m.label())
}

func (m maker) Create(_ cancel, in *fuse.CreateIn, name string, _ *fuse.CreateOut) fuse.Status {
	return m.hear("create %d %q %q", in.Mode, name, m.label())
}

func (m maker) Tmpfile(_ cancel, in *fuse.CreateIn, _ *fuse.CreateOut) fuse.Status {
	return m.hear("tmpfile %d %q", in.Mode, m.label())
}

// TestLabelsOfMessages has each request that makes a file handled with a label, as kernels
// from Linux 6.3 on and older ones send it, in one piece and in two, as a ring has it.
func TestLabelsOfMessages(t *testing.T) {
	for _, tt := range []struct {
		opcode    uint32
		structure int
		names     string
		want      string // %q is the label
	}{
		{wireMknod, 16, "name\x00", `mknod 7 "name" %q`},
		{wireMkdir, 8, "name\x00", `mkdir 7 "name" %q`},
		{wireSymlink, 0, "name\x00target\x00", `symlink 7 "target" "name" %q`},
		{wireCreate, 16, "name\x00", `create 7 "name" %q`},
		{wireTmpfile, 16, "/\x00", `tmpfile 7 %q`},
	} {
		for name, c := range map[string]struct {
			ext     string
			extlen  int // in bytes, or -1 for what it is
			asked   bool
			missing bool // there is no file to write the label to
			label   string
			errno   unix.Errno
		}{
			"label":             {ext: secctxs(secctx(xattrSELinux, testLabel)), extlen: -1, asked: true, label: testLabel},
			"before Linux 6.3":  {ext: secctxs(secctx(xattrSELinux, testLabel)), asked: true, label: testLabel},
			"no label":          {ext: secctxs(), extlen: -1, asked: true},
			"no extension":      {asked: true},
			"not the source's":  {ext: secctxs(secctx(xattrSELinux, testLabel)), extlen: -1},
			"another length":    {ext: secctxs(secctx(xattrSELinux, testLabel)), extlen: 8, asked: true, errno: unix.EIO},
			"malformed":         {ext: "12345678", extlen: -1, asked: true, errno: unix.EIO},
			"refused by kernel": {ext: secctxs(secctx(xattrSELinux, testLabel)), extlen: -1, asked: true, missing: true, errno: unix.ENOENT},
		} {
			for _, pieces := range []int{1, 2} {
				path := filepath.Join(t.TempDir(), "fscreate")
				if err := os.WriteFile(path, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				m := maker{&echo{RawFileSystem: fuse.NewDefaultRawFileSystem()}, path}
				protocol := fuse.NewProtocolServer(m, &fuse.MountOptions{})
				l, errno := newLabels(path)
				if errno != 0 {
					t.Fatal(errno)
				}
				if c.missing {
					l.path += "/none"
					c.errno = unix.ENOTDIR
				}
				if c.asked {
					l.see("user.other")
					if l.asked.Load() {
						t.Fatal("asked for another attribute")
					}
					l.see(xattrSELinux)
				}
				head := make([]byte, 40+tt.structure)
				all := tt.names + c.ext
				binary.NativeEndian.PutUint32(head, uint32(len(head)+len(all)))
				binary.NativeEndian.PutUint32(head[4:], tt.opcode)
				binary.NativeEndian.PutUint64(head[8:], 42)
				binary.NativeEndian.PutUint64(head[16:], 7)
				if c.extlen < 0 {
					c.extlen = len(c.ext)
				}
				binary.NativeEndian.PutUint16(head[36:], uint16(c.extlen/8))
				switch tt.opcode { // 7 where it is looked at
				case wireMknod, wireCreate, wireTmpfile:
					binary.NativeEndian.PutUint32(head[44:], 7)
				case wireMkdir:
					binary.NativeEndian.PutUint32(head[40:], 7)
				}
				in, out := [][]byte{append(head, all...)}, [][]byte{make([]byte, 4096)}
				if pieces == 2 {
					payload := append([]byte(all), make([]byte, 4096)...)
					in, out = [][]byte{head, payload[:len(all)]}, [][]byte{make([]byte, 16), payload}
				}
				n, ok := l.handle(in, out, func(in, out [][]byte) (int, bool) {
					if n, ok := hot(m, in, out); ok {
						return n, true
					}
					if tt.opcode == wireCreate {
						t.Errorf("%s: left to go-fuse", name)
					}
					n, status := protocol.HandleRequest(in, out)
					return n, status.Ok()
				})
				what := fmt.Sprintf("opcode %d, %s, %d pieces", tt.opcode, name, pieces)
				if got := unix.Errno(-int32(binary.NativeEndian.Uint32(out[0][4:]))); !ok || n < 16 || got != c.errno || binary.NativeEndian.Uint64(out[0][8:]) != 42 {
					t.Errorf("%s: %t, %d bytes, errno %v, want %v", what, ok, n, got, c.errno)
				}
				want := fmt.Sprintf(tt.want, c.label)
				if heard := strings.Join(m.heard, "; "); c.errno == 0 && heard != want || c.errno != 0 && heard != "" {
					t.Errorf("%s: %s, want %s", what, heard, want)
				}
			}
		}
	}
}

// TestSecurityContexts has this kernel send its contexts, of which there are none without
// SELinux: names stay names, whatever carries the requests.
func TestSecurityContexts(t *testing.T) {
	testenv.RequireRoot(t)
	if sys.RunsSELinux() {
		testenv.Skip(t, testenv.NeedKernel, "a kernel without SELinux, which sends no label")
	}
	for _, transport := range []Transport{TransportDevice, TransportAuto} {
		source := openTmpfs(t)
		defer source.Close()
		f, err := New(source, Options{Map: idmap.Identity(), Transport: transport})
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "fscreate")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		f.labels = &labels{path: path}
		tree, err := sys.FuseMountServed(sys.FuseMountOptions{
			Source: "labels", Subtype: "idmount", AllowOther: true, DefaultPermissions: true, ServeEarly: true,
		}, f.Start)
		if err != nil {
			t.Fatal(err)
		}
		if f.kernel.Flags&fuse.CAP_SECURITY_CTX == 0 {
			tree.Close()
			f.Wait()
			testenv.Skip(t, testenv.NeedKernel, "FUSE_SECURITY_CTX is of Linux 5.17")
		}
		mnt := throughFD(tree) + "/"
		noPoll(t, mnt+"file")
		tmp, err := unix.Open(mnt, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err == nil {
			err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", tmp), unix.AT_FDCWD, mnt+"linked", unix.AT_SYMLINK_FOLLOW)
			unix.Close(tmp)
		}
		if err := errors.Join(err, unix.Mkdir(mnt+"dir", 0o700), unix.Mknod(mnt+"fifo", unix.S_IFIFO|0o600, 0), unix.Symlink("to", mnt+"link")); err != nil {
			t.Error(err)
		}
		// The attribute is the source's, in both directions.
		label := make([]byte, 100)
		if err := unix.Setxattr(mnt+"dir", xattrSELinux, []byte(testLabel), 0); err != nil {
			t.Error(err)
		} else if n, err := unix.Getxattr(throughFD(source)+"/dir", xattrSELinux, label); err != nil || string(label[:n]) != testLabel {
			t.Errorf("label at the source: %q, %v", label[:max(n, 0)], err)
		} else if n, err := unix.Getxattr(mnt+"dir", xattrSELinux, label); err != nil || string(label[:n]) != testLabel {
			t.Errorf("label in the mount: %q, %v", label[:max(n, 0)], err)
		} else if n, err := unix.Listxattr(mnt+"dir", label); err != nil || string(label[:n]) != xattrSELinux+"\x00" {
			t.Errorf("attributes in the mount: %q, %v", label[:max(n, 0)], err)
		} else if !f.labels.asked.Load() {
			t.Error("no request for the label has been noted")
		}
		if to, err := os.Readlink(throughFD(source) + "/link"); to != "to" {
			t.Errorf("link to %q, %v", to, err)
		}
		if got := fmt.Sprint(readNames(t, throughFD(source))); got != "[dir fifo file link linked]" {
			t.Errorf("names %s", got)
		}
		tree.Close()
		f.Wait()
	}
}
