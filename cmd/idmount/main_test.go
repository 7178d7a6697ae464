package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/urfave/cli/v2"

	"github.com/idmount/idmount/internal/test/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// TestScripts runs the command as a user does. The scripts that mount are for
// root, and are alone in this process's mount namespace.
func TestScripts(t *testing.T) {
	binary := testenv.Binary(t)
	if os.Geteuid() == 0 {
		installHelpers(t, binary)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			bin := filepath.Join(e.WorkDir, ".bin")
			if err := os.Mkdir(bin, 0o755); err != nil {
				return err
			}
			for _, name := range []string{"idmount", "mount.idmount"} {
				if err := os.Symlink(binary, filepath.Join(bin, name)); err != nil {
					return err
				}
			}
			// Other users than root can't enter the work directory.
			e.Setenv("IDMOUNT", binary)
			e.Setenv("PATH", bin+string(filepath.ListSeparator)+e.Getenv("PATH"))
			return nil
		},
		Condition: func(c string) (bool, error) { return c == "root" && os.Geteuid() == 0, nil },
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exit": wantExit,
		},
	})
}

// installHelpers puts the program where mount(8) looks for helpers, /sbin, in this
// process's mount namespace alone.
func installHelpers(t *testing.T, binary string) {
	t.Helper()
	sbin, err := filepath.EvalSymlinks("/sbin")
	if err != nil {
		t.Fatal(err)
	}
	layers := testenv.Dir(t)
	testenv.Mount(t, "tmpfs", layers, "mode=0755")
	for _, name := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(layers, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"mount.idmount", "mount.fuse.idmount", umountHelperName} {
		if err := os.Symlink(binary, filepath.Join(layers, "upper", name)); err != nil {
			t.Fatal(err)
		}
	}
	testenv.Mount(t, "overlay", sbin, fmt.Sprintf("lowerdir=%s,upperdir=%[2]s/upper,workdir=%[2]s/work", sbin, layers))
}

// wantExit is the script command "exit CODE PROGRAM ARGUMENTS…".
func wantExit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exit CODE PROGRAM ARGUMENTS…")
	}
	want, got := args[0], "0"
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != want {
		ts.Fatalf("exit code %s, want %s", got, want)
	}
}

// TestManual holds every option of --help against the manual page.
func TestManual(t *testing.T) {
	data, err := os.ReadFile("../../docs/man/idmount.8")
	if err != nil {
		t.Fatal(err)
	}
	manual := string(data)
	for _, c := range app(nil, nil).Commands {
		if c.Hidden {
			continue
		}
		_, section, ok := strings.Cut(manual, ".Ss idmount "+c.Name+"\n")
		if !ok {
			t.Errorf("the manual has no section on %s", c.Name)
			continue
		}
		for _, next := range []string{"\n.Sh ", "\n.Ss "} {
			section, _, _ = strings.Cut(section, next)
		}
		for _, flag := range c.Flags {
			for _, name := range flag.Names() {
				want := "Fl " + name
				if len(name) > 1 {
					want = "Fl -" + name
				}
				if !strings.Contains(section, want) {
					t.Errorf("the manual's section on %s has no option %s", c.Name, name)
				}
			}
			if f, ok := flag.(cli.DocGenerationFlag); ok && f.GetUsage() == "" {
				t.Errorf("option %v of %s says nothing of itself", flag.Names(), c.Name)
			}
		}
	}
}
