package main

import "testing"

func TestTakeOption(t *testing.T) {
	for _, tc := range []struct{ list, rest, value string }{
		{"", "", ""},
		{"ro,nosuid", "ro,nosuid", ""},
		{"ro,access=caller,nosuid", "ro,nosuid", "caller"},
		{"access=caller,access=daemon", "", "daemon"},
		{"access", "access", ""},
		{"xaccess=caller", "xaccess=caller", ""},
	} {
		rest, value := takeOption(tc.list, "access", "")
		if rest != tc.rest || value != tc.value {
			t.Errorf("%q: got %q, %q, want %q, %q", tc.list, rest, value, tc.rest, tc.value)
		}
	}
}
