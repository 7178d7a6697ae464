package fusefs

import "testing"

// TestLostBits is setattr_should_drop_suidgid() of the kernel.
func TestLostBits(t *testing.T) {
	for _, tc := range []struct {
		mode   uint32
		member bool
		want   uint32
	}{
		{0o6777, false, 0o6000},
		{0o6777, true, 0o6000}, // the group may run it
		{0o6767, false, 0o6000},
		{0o6767, true, 0o4000},
		{0o4755, true, 0o4000},
		{0o2711, true, 0o6000},
	} {
		if got := lostBits(tc.mode, tc.member) & 0o7777; got != tc.want {
			t.Errorf("%#o, member %v: %#o, want %#o", tc.mode, tc.member, got, tc.want)
		}
	}
}
