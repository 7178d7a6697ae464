package idmap_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/idmount/idmount/idmap"
)

// TestCodecs is under fuzzMap: disk 0..65535 is view 100000.. for users and
// 200000.. for groups; disk user 100000 is view root.
func TestCodecs(t *testing.T) {
	base := func(uid, gid uint32) []byte {
		return acl(aclEntry{userObj, 7, noID}, aclEntry{user, 6, uid}, aclEntry{groupObj, 5, noID},
			aclEntry{group, 4, gid}, aclEntry{mask, 7, noID}, aclEntry{other, 0, noID})
	}
	m := fuzzMap(t)
	for _, c := range []struct {
		name     string
		c        codec
		in, want []byte
		err      error
	}{
		{"acl to view", idmap.ViewACL, base(33, 44), base(100033, 200044), nil},
		{"acl to disk", idmap.DiskACL, base(100033, 200044), base(33, 44), nil},
		{"unmapped to view", idmap.ViewACL, base(70000, 70000), base(idmap.ACLStandIn, idmap.ACLStandIn), nil},
		{"unmapped user to disk", idmap.DiskACL, base(70000, 200044), nil, idmap.ErrUnmapped},
		{"unmapped group to disk", idmap.DiskACL, base(100033, 44), nil, idmap.ErrUnmapped},
		{"stand-in to disk", idmap.DiskACL, base(idmap.ACLStandIn, 200044), nil, idmap.ErrUnmapped},
		{"id -1 to disk", idmap.DiskACL, base(noID, 200044), nil, idmap.ErrUnmapped},
		{"id of an owner's entry stays", idmap.DiskACL, acl(aclEntry{userObj, 7, 12}), acl(aclEntry{userObj, 7, 12}), nil},
		{"no entries to view", idmap.ViewACL, acl(), acl(), nil},
		{"no entries to disk", idmap.DiskACL, acl(), acl(), nil},
		{"no header", idmap.ViewACL, nil, nil, idmap.ErrMalformed},
		{"half an entry", idmap.DiskACL, base(100033, 200044)[:16], nil, idmap.ErrMalformed},
		{"one byte more", idmap.ViewACL, append(base(33, 44), 0), nil, idmap.ErrMalformed},
		{"acl version 1", idmap.ViewACL, []byte{1, 0, 0, 0}, nil, idmap.ErrMalformed},
		{"big-endian acl", idmap.ViewACL, []byte{0, 0, 0, 2}, nil, idmap.ErrMalformed},
		{"unknown tag", idmap.DiskACL, acl(aclEntry{0x40, 7, noID}), nil, idmap.ErrMalformed},
		{"two tags in one", idmap.DiskACL, acl(aclEntry{user | group, 7, 100033}), nil, idmap.ErrMalformed},
		{"unknown permission", idmap.DiskACL, acl(aclEntry{userObj, 8, noID}), nil, idmap.ErrMalformed},

		// Passed on raw, revision 2 would give capabilities to users of the init namespace.
		{"revision 2 to view", idmap.ViewFileCap, fileCap(2, true), fileCap(3, true, 100000), nil},
		{"revision 3 of root to view", idmap.ViewFileCap, fileCap(3, false, 0), fileCap(3, false, 100000), nil},
		{"revision 3 seen as root", idmap.ViewFileCap, fileCap(3, true, 100000), fileCap(3, true, 0), nil},
		{"unmapped rootid to view", idmap.ViewFileCap, fileCap(3, true, 70000), fileCap(3, true, noID), nil},
		{"revision 1 to view", idmap.ViewFileCap, fileCap(1, true), widened(fileCap(1, true), 100000), nil},
		{"revision 2 to disk", idmap.DiskFileCap, fileCap(2, true), fileCap(3, true, 100000), nil},
		{"revision 3 to disk", idmap.DiskFileCap, fileCap(3, false, 100005), fileCap(3, false, 5), nil},
		{"revision 1 to disk", idmap.DiskFileCap, fileCap(1, false), widened(fileCap(1, false), 100000), nil},
		{"unmapped rootid to disk", idmap.DiskFileCap, fileCap(3, true, 70000), nil, idmap.ErrUnmapped},
		{"rootid -1 to disk", idmap.DiskFileCap, fileCap(3, true, noID), nil, idmap.ErrUnmapped},
		{"revision 4", idmap.DiskFileCap, fileCap(4, true, 100000), nil, idmap.ErrMalformed},
		{"revision 0", idmap.ViewFileCap, fileCap(0, true), nil, idmap.ErrMalformed},
		{"revision 2 with a rootid", idmap.ViewFileCap, fileCap(2, true, 0), nil, idmap.ErrMalformed},
		{"revision 3 without a rootid", idmap.DiskFileCap, fileCap(3, true), nil, idmap.ErrMalformed},
		{"unknown flag", idmap.DiskFileCap, append([]byte{2}, fileCap(2, false)[1:]...), nil, idmap.ErrMalformed},
		{"no capability", idmap.ViewFileCap, nil, nil, idmap.ErrMalformed},
		{"a header alone", idmap.ViewFileCap, []byte{0, 0, 0, 2}, nil, idmap.ErrMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := fuzzCodec(t, m, c.c, c.in)
			if !errors.Is(err, c.err) {
				t.Errorf("error %v, want %v", err, c.err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// widened is a value of revision 1 in revision 3: the upper sets are empty.
func widened(in []byte, rootid uint32) []byte {
	b := append([]byte(nil), in...)
	b[3] = 3
	b = append(b, make([]byte, 8)...)
	return le.AppendUint32(b, rootid)
}

// TestRootStaysRoot: capabilities of root that stay root's need no revision 3.
func TestRootStaysRoot(t *testing.T) {
	for _, in := range [][]byte{fileCap(2, true), fileCap(3, true, 0)} {
		got, err := idmap.ViewFileCap(idmap.Identity(), in)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(fileCap(2, true), got); diff != "" {
			t.Errorf("%x (-want +got):\n%s", in, diff)
		}
	}
}
