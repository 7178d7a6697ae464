package main

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDetectJSON holds the keys that scripts read: one more is no harm, one less is.
func TestDetectJSON(t *testing.T) {
	dir := t.TempDir()
	var stdout, stderr bytes.Buffer
	if code := run(context.Background(), []string{"idmount", "detect", "--json", dir}, strings.NewReader(""), &stdout, &stderr); code != exitOK {
		t.Fatalf("exit code %d, want %d\n%s", code, exitOK, &stderr)
	}
	if stderr.Len() > 0 {
		t.Errorf("stderr is not empty: %s", &stderr)
	}
	var report map[string]any
	if err := json.Unmarshal(stdout.Bytes(), &report); err != nil {
		t.Fatalf("%v\n%s", err, &stdout)
	}
	if diff := cmp.Diff(dir, report["path"]); diff != "" {
		t.Errorf("path (-want +got):\n%s", diff)
	}
	for _, key := range []string{"fstype", "kernel", "recursive", "access"} {
		if _, ok := report[key]; !ok {
			t.Errorf("no key %q; there are %v", key, slices.Sorted(maps.Keys(report)))
		}
	}
	for _, key := range []string{
		"mount_api", "user_namespace", "map", "idmap", "fuse_device", "fuse", "relay",
		"translate_map", "passthrough", "io_uring", "file_handles", "capabilities", "root_access",
	} {
		finding, ok := report[key].(map[string]any)
		if !ok {
			t.Errorf("%q is no finding: %v", key, report[key])
			continue
		}
		if v, _ := finding["verdict"].(string); !slices.Contains([]string{"yes", "no", "unknown"}, v) {
			t.Errorf("%q has the verdict %v, want yes, no or unknown", key, finding["verdict"])
		}
	}
}
