package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/idmount/idmount/bench"
)

// piece writes a report with one row.
func piece(t *testing.T, kernel, row string) string {
	t.Helper()
	r := bench.Report{Machine: bench.Machine{Kernel: kernel}, Rows: []bench.RowReport{{Name: row, Title: row, Unit: bench.Nanoseconds}}}
	var text bytes.Buffer
	if err := r.WriteJSON(&text); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), row+".json")
	if err := os.WriteFile(name, text.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestPiecesBecomeOne(t *testing.T) {
	one, two := piece(t, "6.18", "walk-warm"), piece(t, "6.18", "write4k")
	var out bytes.Buffer
	if err := run([]string{one, two}, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"walk-warm", "write4k", "## Memory"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the tables lack %q:\n%s", want, out.String())
		}
	}
	all := filepath.Join(t.TempDir(), "all.json")
	html := filepath.Join(t.TempDir(), "all.html")
	if err := run([]string{"-json", all, "-html", html, one, two}, &out); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{all, html} {
		text, err := os.ReadFile(name)
		if err != nil || !bytes.Contains(text, []byte("write4k")) {
			t.Errorf("%s lacks a row: %v", filepath.Base(name), err)
		}
	}
}

func TestUpdateReplacesTables(t *testing.T) {
	doc := filepath.Join(t.TempDir(), "doc.md")
	if err := os.WriteFile(doc, []byte("# Title\n\n<!-- bench: main -->\nold\n<!-- /bench -->\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run([]string{"-update", doc, piece(t, "6.18", "write4k")}, nil); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(doc)
	if err != nil || !strings.HasPrefix(string(text), "# Title\n") || strings.Contains(string(text), "old") || !strings.Contains(string(text), "| write4k |") {
		t.Errorf("%v\n%s", err, text)
	}
}

func TestErrors(t *testing.T) {
	one := piece(t, "6.18", "write4k")
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "no report is named"},
		{[]string{"nowhere.json"}, "nowhere.json"},
		{[]string{one, piece(t, "5.10", "walk-warm")}, "different machines"},
		{[]string{"-update", "nowhere.md", one}, "nowhere.md"},
	} {
		if err := run(c.args, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: error %v, want one with %q", c.args, err, c.want)
		}
	}
}
