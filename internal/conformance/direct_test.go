package conformance

import (
	"encoding/hex"
	"strings"
	"testing"
)

func TestDirectOwn(t *testing.T) {
	m := MapByName("shift")
	acl := func(user, group uint32) string {
		return hex.EncodeToString(ACLXattr(6, 4, 7, 4, ACLEntry{ACLUser, 6, user}, ACLEntry{ACLGroup, 6, group}))
	}
	for _, c := range []struct {
		what, caller, key      string
		reference, source, got string
		want                   bool
	}{
		{"the source does as the oracle's", "user-A", "op x", "ok", "ok", "EPERM", false},
		{"the mount does as the source", "user-A", "op x", "ok", "EPERM", "EPERM", true},
		{"the mount does as neither", "user-A", "op x", "ok", "EPERM", "EIO", false},
		{"words of each", "user-A", "op x", "0106777 size 100", "0106777 size 18", "0100777 size 18", true},
		{"a word of neither", "user-A", "op x", "0106777 size 100", "0106777 size 18", "0100777 size 17", false},
		{"an owner through the map", "user-A", `caller sees "f" owner`, "1000:1000", "0:70000", "100000:65534", true},
		{"the same without the map", "user-A", `caller sees "f" owner`, "1000:1000", "1001:1001", "1001:1001", false},
		{"an owner in a container", "C0", `caller sees "f" owner`, "1000:1000", "0:70000", "0:65534", true},
		{"root is in no container", "C0", `root sees "f" owner`, "1000:1000", "0:70000", "100000:65534", true},
		{"the disk has no map", "user-A", `disk "f" owner`, "1000:1000", "0:0", "100000:100000", false},
		{"an ACL through the map", "user-A", `caller sees "f" xattr system.posix_acl_access`, "ENODATA", acl(1000, 70000), acl(101000, 0xFFFFFFFE), true},
	} {
		d := &Direct{Reference: Result{{c.key, c.reference}}, Source: Result{{c.key, c.source}}, Map: m, Caller: CallerByName(c.caller).Make(m)}
		if got := d.Own(Difference{Key: c.key, Want: strings.Replace(c.reference, "06777", "00777", 1), Got: c.got}); got != c.want {
			t.Errorf("%s: own is %v, want %v", c.what, got, c.want)
		}
	}
	if d := (&Direct{Reference: Result{{"op x", "ok"}}}); !d.Own(Difference{"op x", "ok", absent}) {
		t.Error("what the source does not show, and the mount neither, is not the source's own")
	}
}
