package treecmp

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// sample makes a small tree with one file of each kind that needs no privilege.
func sample(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do(os.Mkdir(filepath.Join(root, "dir"), 0o755))
	do(os.WriteFile(filepath.Join(root, "dir/file"), []byte("content\n"), 0o644))
	do(os.Link(filepath.Join(root, "dir/file"), filepath.Join(root, "dir/linked")))
	do(os.Symlink("../nowhere", filepath.Join(root, "dir/symlink")))
	do(unix.Mkfifo(filepath.Join(root, "fifo"), 0o600))
	do(os.WriteFile(filepath.Join(root, "other"), []byte("other\n"), 0o600))
	return root
}

func scan(t testing.TB, root string) Tree {
	t.Helper()
	tree, err := Scan(root)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestScan(t *testing.T) {
	root := sample(t)
	tree := scan(t, root)
	want := []string{".", "dir", "dir/file", "dir/linked", "dir/symlink", "fifo", "other"}
	if diff := cmp.Diff(want, tree.Paths()); diff != "" {
		t.Errorf("paths (-want +got):\n%s", diff)
	}
	if got := tree["dir/symlink"].Link; got != "../nowhere" {
		t.Errorf("link target %q", got)
	}
	if got := tree["dir/linked"].HardLinkOf; got != "dir/file" {
		t.Errorf("dir/linked is a hard link of %q, want dir/file", got)
	}
	if got := tree["fifo"].FileMode(); got != os.ModeNamedPipe|0o600 {
		t.Errorf("fifo has mode %v", got)
	}
	if e := tree["dir/file"]; e.Size != 8 || len(e.Hash) != 32 || int(e.UID) != os.Getuid() || int(e.GID) != os.Getgid() {
		t.Errorf("dir/file: %+v", e)
	}
}

func TestScanReportsPath(t *testing.T) {
	_, err := Scan(filepath.Join(t.TempDir(), "absent"))
	if err == nil || !strings.Contains(err.Error(), "absent") {
		t.Errorf("got %v, want an error with the path", err)
	}
}

func TestTreeSurvivesJSON(t *testing.T) {
	tree := scan(t, sample(t))
	text, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	var back Tree
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if diff := Diff(tree, back, Options{Mtime: true}); len(diff) > 0 {
		t.Errorf("changed by JSON: %q", diff)
	}
}

func TestDiff(t *testing.T) {
	for _, tc := range []struct {
		name    string
		change  func(root string) error
		options Options
		want    []string // what each line begins with
	}{
		{name: "equal"},
		{
			name:   "mode",
			change: func(root string) error { return os.Chmod(root+"/other", 0o640) },
			want:   []string{"other: mode -rw-------, -rw-r-----"},
		},
		{
			name: "content",
			change: func(root string) error {
				return os.WriteFile(root+"/other", []byte("OTHER\n"), 0)
			},
			want: []string{"other: content "},
		},
		{
			name: "content ignored",
			change: func(root string) error {
				return os.WriteFile(root+"/other", []byte("longer than before\n"), 0)
			},
			options: Options{IgnoreContent: map[string]string{"other": "it has a date in it"}},
		},
		{
			name:   "missing",
			change: func(root string) error { return os.Remove(root + "/fifo") },
			want:   []string{"fifo: only in the first tree"},
		},
		{
			name:   "added",
			change: func(root string) error { return os.WriteFile(root+"/dir/new", nil, 0o644) },
			want:   []string{"dir/new: only in the second tree"},
		},
		{
			name:    "added below an ignored directory",
			change:  func(root string) error { return os.WriteFile(root+"/dir/new", nil, 0o644) },
			options: Options{Ignore: map[string]string{"dir": "a cache"}},
		},
		{
			name: "hard link split",
			change: func(root string) error {
				if err := os.Remove(root + "/dir/linked"); err != nil {
					return err
				}
				return os.WriteFile(root+"/dir/linked", []byte("content\n"), 0o644)
			},
			want: []string{"dir/linked: hard link of dir/file, none"},
		},
		{
			name: "link target",
			change: func(root string) error {
				if err := os.Remove(root + "/dir/symlink"); err != nil {
					return err
				}
				return os.Symlink("../anywhere", root+"/dir/symlink")
			},
			want: []string{"dir/symlink: link target ../nowhere, ../anywhere"},
		},
		{
			name:   "xattr",
			change: func(root string) error { return unix.Setxattr(root+"/other", "user.a", []byte{1, 2}, 0) },
			want:   []string{"other: xattr user.a absent, 0102"},
		},
		{
			name:    "xattr ignored",
			change:  func(root string) error { return unix.Setxattr(root+"/other", "user.a", []byte{1, 2}, 0) },
			options: Options{IgnoreXattrs: []string{"user."}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := sample(t)
			before := scan(t, root)
			if tc.change != nil {
				if err := tc.change(root); err != nil {
					t.Fatal(err)
				}
			}
			got := Diff(before, scan(t, root), tc.options)
			if len(got) != len(tc.want) {
				t.Fatalf("got %q, want %q", got, tc.want)
			}
			for i := range got {
				if !strings.HasPrefix(got[i], tc.want[i]) {
					t.Errorf("line %d is %q, want it to begin with %q", i, got[i], tc.want[i])
				}
			}
		})
	}
}

func TestDiffOwners(t *testing.T) {
	a := Tree{"f": {Mode: unix.S_IFREG | 0o644, UID: 0, GID: 8}}
	b := Tree{"f": {Mode: unix.S_IFREG | 0o644, UID: 65534, GID: 65534}}
	want := []string{"f: uid 0, 65534", "f: gid 8, 65534"}
	if diff := cmp.Diff(want, Diff(a, b, Options{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
