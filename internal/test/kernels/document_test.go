package kernels

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const documentFile = "../../../docs/kernels.md"

// checkDocument compares cells with docs/kernels.md, or writes it.
func checkDocument(t *testing.T, cells []Cell, write bool) {
	t.Helper()
	old, err := os.ReadFile(documentFile)
	must(t, err)
	if write {
		text, err := replaceTables(string(old), document(cells))
		must(t, err)
		must(t, os.WriteFile(documentFile, []byte(text), 0o644))
		return
	}
	for _, w := range compareDocument(string(old), cells) {
		t.Errorf("docs/kernels.md: %s", w)
	}
}

func TestDocument(t *testing.T) {
	cells := []Cell{
		{Kernel: "6.12", Source: "overlay", Backend: "native", Result: None, Reason: "no idmapped mounts"},
		{Kernel: "6.12", Source: "overlay", Backend: "relay", Result: Pass},
		{Kernel: "6.12", Source: "overlay", Backend: "translate", Result: Fail, Reason: "differs"},
		{Kernel: "5.10", Source: "erofs", Result: None, Reason: "the kernel has no erofs"},
	}
	const want = `
### Linux 5.10

| source | native | relay | translate |
| --- | --- | --- | --- |
| erofs | no | no | no |

- erofs: none: the kernel has no erofs

### Linux 6.12

| source | native | relay | translate |
| --- | --- | --- | --- |
| overlay | no | yes | fails |

- native overlay: none: no idmapped mounts
- translate overlay: fail: differs

`
	got := document(cells)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tables (-want +got):\n%s", diff)
	}
	if wrong := compareDocument(got, cells); len(wrong) > 0 {
		t.Errorf("the document differs from what it was made of: %v", wrong)
	}
	cells[1].Result = None
	wrong := compareDocument(got, cells)
	if len(wrong) != 1 || !strings.HasPrefix(wrong[0], "6.12 overlay relay: ") {
		t.Errorf("one wrong cell gives %v", wrong)
	}
	text, err := replaceTables("head\n"+documentBegin+"old\n"+documentEnd+"tail\n", "new\n")
	if want := "head\n" + documentBegin + "new\n" + documentEnd + "tail\n"; text != want || err != nil {
		t.Errorf("replaced: %q, %v", text, err)
	}
}

func TestParseCells(t *testing.T) {
	c := Cell{Kernel: "6.1", Source: "a b", Backend: "relay", Result: Fail, Reason: `"x"`, Cases: 3, Rules: []string{"why"}}
	got, err := parseCells("=== RUN\n" + c.line() + "\n    " + c.line() + "\nother\n")
	if diff := cmp.Diff([]Cell{c, c}, got); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	if _, err := parseCells("CELL {x\n"); err == nil {
		t.Error("a broken line was accepted")
	}
}
