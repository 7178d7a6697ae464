package uml

import (
	"debug/elf"
	"fmt"
	"os"
)

// inheritedLoader is the interpreter that the kernel's program is patched to:
// descriptor 3, on which Run hands it the loader of its own suite.
//
// Why not `ld.so PROGRAM`: user-mode-linux takes the end of its own program
// for the start of the guest's memory, and executes itself once more by
// argv[0]; both fail when the program was started by a loader. Why not
// patchelf: one tool less to have, and a path to the cache may be longer than
// the room for it. A path through the descriptor always fits, and holds for
// the second execution as well.
const inheritedLoader = "/proc/self/fd/3"

// setInterpreter overwrites the path of the program's interpreter in place.
func setInterpreter(program, interpreter string) error {
	f, err := os.OpenFile(program, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	e, err := elf.NewFile(f)
	if err != nil {
		return fmt.Errorf("read %s: %w", program, err)
	}
	if e.Machine != elf.EM_X86_64 {
		return fmt.Errorf("read %s: machine %v: only EM_X86_64 is supported", program, e.Machine)
	}
	for _, p := range e.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		// Linux demands that the last byte of the segment is zero, and reads
		// the path up to the first.
		if uint64(len(interpreter)) >= p.Filesz {
			return fmt.Errorf("interpreter of %s: %q is longer than the %d bytes there", program, interpreter, p.Filesz)
		}
		path := make([]byte, p.Filesz)
		copy(path, interpreter)
		if _, err := f.WriteAt(path, int64(p.Off)); err != nil {
			return err
		}
		return f.Close()
	}
	return fmt.Errorf("interpreter of %s: the program has none", program)
}
