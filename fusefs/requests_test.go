package fusefs

import (
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// uncounted are the methods of a file system that answer no request.
var uncounted = []string{"Init", "OnUnmount", "SetDebug", "String"}

// TestRequestsCountsEveryMethod calls all methods of a file system through the
// counting: a request that go-fuse learns of later must not go uncounted.
func TestRequestsCountsEveryMethod(t *testing.T) {
	var n Requests
	c := &counting{RawFileSystem: fuse.NewDefaultRawFileSystem(), n: &n}
	iface := reflect.TypeFor[fuse.RawFileSystem]()
	calls := 0
	for i := range iface.NumMethod() {
		method := iface.Method(i)
		// The default answers ENOSYS to Writev, and Write is called next.
		if slices.Contains(uncounted, method.Name) || method.Name == "Writev" {
			continue
		}
		var args []reflect.Value
		for a := range method.Type.NumIn() {
			args = append(args, reflect.Zero(method.Type.In(a)))
		}
		reflect.ValueOf(c).MethodByName(method.Name).Call(args)
		calls++
		if got := sum(n.Counts()); got != calls {
			t.Errorf("%s: %d requests counted, want %d", method.Name, got, calls)
			calls = got
		}
	}
	if calls != len(opcodes) {
		t.Errorf("%d opcodes were counted, but there are names for %d", calls, len(opcodes))
	}
	for op, got := range n.Counts() {
		if got != 1 {
			t.Errorf("%s: counted %d times, want 1", op, got)
		}
	}
}

func TestRequestsWritev(t *testing.T) {
	var n Requests
	c := &counting{RawFileSystem: fuse.NewDefaultRawFileSystem(), n: &n}
	if _, status := c.Writev(nil, nil, nil); status == fuse.ENOSYS {
		c.Write(nil, nil, nil)
	}
	if diff := cmp.Diff(map[string]uint64{"WRITE": 1}, n.Counts()); diff != "" {
		t.Errorf("one WRITE (-want +got):\n%s", diff)
	}
}

func sum(counts map[string]uint64) int {
	total := 0
	for _, n := range counts {
		total += int(n)
	}
	return total
}
