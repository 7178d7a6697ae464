package detect

import "math"

// slowRequests judges the limit that the kernel sets for the age of a FUSE request, in
// seconds. The longest is what a server asks for where no maximum is set: none of what a
// file system does takes 18 hours.
func slowRequests(limit uint16) Finding {
	switch limit {
	case 0:
		return yes("the kernel has no limit for them")
	case math.MaxUint16:
		return yes("the kernel's limit is %d s, as servers ask for no less", limit)
	}
	return no(nil, "the kernel ends a FUSE mount when a request takes %d s (fs.fuse.max_request_timeout)", limit)
}
