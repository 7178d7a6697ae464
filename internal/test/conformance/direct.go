package conformance

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	"github.com/idmount/idmount/internal/test/testenv"
)

// Direct is a case without any map, on the file system of the oracle and on the
// source, by the caller that stands for the case's on disk. Where the two differ,
// the source does by itself otherwise than the oracle's file system, and what a
// mount of it has to show there is what it does itself.
type Direct struct {
	Reference, Source Result
	Map               *Map // of the mount
	Caller            testenv.Caller
}

// DirectMap is the map under which the callers of direct cases have their ids of
// the disk.
var DirectMap = MapByName("identity")

// DirectCaller is who does a direct case in a caller's place. Of callers in a
// container that is who has on disk the ids that the map gives to them, with
// capabilities in the initial user namespace, which reach further than theirs. Of
// others it is the same class, to whose ids on disk DirectMap leads; those that the
// mount's map lacks (R0, the unmapped ones) are there by the numbers they have, as
// callers who may more than by the mount. See Own for what follows.
func DirectCaller(name string) string {
	switch name {
	case "C0":
		return "R0"
	case "container-user":
		return "user-A"
	case "container-user-with-caps":
		return "MR-B"
	case "nested-root":
		return "MR"
	}
	return name
}

// Own reports whether a difference is the source's own: that the source, without
// any mount of ours, does otherwise than the oracle's file system what the mount
// does otherwise than the oracle. Of a value of several words each is looked at by
// itself: the size of a file may be the source's, where its mode is what the map
// makes of it.
//
// Where the map makes of it something else than the oracle's file system does by
// itself, for one because the caller may less by it than who stands for it, nothing
// is known but that the source refuses: then only that is its own.
func (d *Direct) Own(x Difference) bool {
	reference, source := d.Reference.value(x.Key), d.Source.value(x.Key)
	if !strings.HasPrefix(x.Key, "disk ") {
		c := d.Caller
		if strings.HasPrefix(x.Key, "root sees ") {
			c = testenv.Caller{}
		}
		reference, source = d.seen(reference, c), d.seen(source, c)
	}
	if strings.HasSuffix(x.Key, " xattrs") {
		source = strings.TrimSpace(strings.Replace(source, "system.nfs4_acl", "", 1)) // not carried, see docs/semantics.md
	}
	if reference == source {
		return false
	}
	if source == x.Got && (reference == x.Want || refused.MatchString(x.Got)) {
		return true
	}
	want, got := strings.Fields(x.Want), strings.Fields(x.Got)
	theirs, its := strings.Fields(reference), strings.Fields(source)
	if len(want) != len(got) || len(want) != len(theirs) || len(want) != len(its) {
		return false
	}
	for i := range got {
		if got[i] != want[i] && (theirs[i] != want[i] || its[i] != got[i]) {
			return false
		}
	}
	return true
}

// refused is what a call that fails gives, and what it would have made.
var refused = regexp.MustCompile(`^(E[A-Z0-9]+|\(absent\))$`)

var (
	ownerText = regexp.MustCompile(`\b(\d+):(\d+)\b`)
	aclText   = regexp.MustCompile(`^02000000([0-9a-f]{16})+$`)
)

// seen is a value with ids of the disk as the mount shows it to a caller.
func (d *Direct) seen(value string, c testenv.Caller) string {
	if aclText.MatchString(value) {
		return d.seenACL(value, c)
	}
	return ownerText.ReplaceAllStringFunc(value, func(pair string) string {
		var uid, gid uint32
		if _, err := fmt.Sscanf(pair, "%d:%d", &uid, &gid); err != nil {
			return pair
		}
		return fmt.Sprintf("%d:%d", shown(d.Map.UIDs, uid, c, overflow), shown(d.Map.GIDs, gid, c, overflow))
	})
}

func (d *Direct) seenACL(value string, c testenv.Caller) string {
	b, err := hex.DecodeString(value)
	if err != nil {
		return value
	}
	const header, entry, standIn = 4, 8, 0xFFFFFFFE
	for e := b[header:]; len(e) >= entry; e = e[entry:] {
		id := binary.LittleEndian.Uint32(e[4:])
		switch binary.LittleEndian.Uint16(e) {
		case ACLUser:
			id = shown(d.Map.UIDs, id, c, standIn)
		case ACLGroup:
			id = shown(d.Map.GIDs, id, c, standIn)
		}
		binary.LittleEndian.PutUint32(e[4:], id)
	}
	return hex.EncodeToString(b)
}

const overflow = 65534

// shown is the number by which a caller sees an id of the disk, or instead if it
// has none.
func shown(ids []Extent, id uint32, c testenv.Caller, instead uint32) uint32 {
	view := viewID(ids, id)
	if view == Foreign {
		return instead
	}
	for _, n := range c.Namespaces {
		if view < n.Outer || view-n.Outer >= n.Count {
			return instead
		}
		view -= n.Outer
	}
	return view
}
