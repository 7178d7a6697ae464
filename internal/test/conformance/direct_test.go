package conformance

import (
	"encoding/hex"
	"testing"
)

func TestDirectOwn(t *testing.T) {
	m := MapByName("shift")
	acl := func(user, group uint32) string {
		return hex.EncodeToString(ACLXattr(6, 4, 7, 4, ACLEntry{ACLUser, 6, user}, ACLEntry{ACLGroup, 6, group}))
	}
	for _, c := range []struct {
		what, caller, key            string
		reference, source, want, got string
		own                          bool
	}{
		{"the source does as the oracle's", "user-A", "op x", "ok", "ok", "ok", "EPERM", false},
		{"the mount does as the source", "user-A", "op x", "ok", "EPERM", "ok", "EPERM", true},
		{"the mount does as neither", "user-A", "op x", "ok", "EPERM", "ok", "EIO", false},
		{"the source allows more", "user-A", "op x", "EPERM", "ok", "EPERM", "ok", true},
		{"the source allows more, to who is another without the map", "R0", "op x", "EPERM", "ok", "EOVERFLOW", "ok", false},
		{"the source refuses first what the map does, too", "R0", "op x", "ok", "ENOTSUP", "EOVERFLOW", "ENOTSUP", true},
		{"nobody but the mount gives the errno", "R0", "op x", "ok", "ENOTSUP", "EOVERFLOW", "EPERM", false},
		{"a file that the map would not have made", "R0", `disk "f" mode`, "0100777", "0100755", absent, "0100755", false},
		{"a file that the source has not made", "R0", `disk "f" mode`, "0100777", absent, "0100644", absent, true},
		{"words of each", "user-A", "op x", "0106777 size 100", "0106777 size 18", "0100777 size 100", "0100777 size 18", true},
		{"a word of neither", "user-A", "op x", "0106777 size 100", "0106777 size 18", "0100777 size 100", "0100777 size 17", false},
		{"a word that the map has changed", "user-A", "op x", "0106777 size 100", "0106777 size 18", "0100777 size 50", "0100777 size 18", false},
		{"an owner through the map", "user-A", `caller sees "f" owner`, "1000:1000", "0:70000", "101000:101000", "100000:65534", true},
		{"the same without the map", "user-A", `caller sees "f" owner`, "1000:1000", "1001:1001", "101000:101000", "1001:1001", false},
		{"an owner in a container", "C0", `caller sees "f" owner`, "1000:1000", "0:70000", "1000:1000", "0:65534", true},
		{"root is in no container", "C0", `root sees "f" owner`, "1000:1000", "0:70000", "101000:101000", "100000:65534", true},
		{"the disk has no map", "user-A", `disk "f" owner`, "1000:1000", "0:0", "1000:1000", "100000:100000", false},
		{
			"an ACL through the map", "user-A", `caller sees "f" xattr system.posix_acl_access`,
			"ENODATA", acl(1000, 70000), "ENODATA", acl(101000, 0xFFFFFFFE), true,
		},
	} {
		d := &Direct{Reference: Result{{c.key, c.reference}}, Source: Result{{c.key, c.source}}, Map: m, Caller: CallerByName(c.caller).Make(m)}
		if got := d.Own(Difference{Key: c.key, Want: c.want, Got: c.got}); got != c.own {
			t.Errorf("%s: own is %v, want %v", c.what, got, c.own)
		}
	}
	if d := (&Direct{Reference: Result{{"op x", "ok"}}}); !d.Own(Difference{"op x", "ok", absent}) {
		t.Error("what the source does not show, and the mount neither, is not the source's own")
	}
}
