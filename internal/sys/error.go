package sys

import "strings"

// Error is a failed system call.
type Error struct {
	Op     string // the system call, as its manual page names it
	Path   string // what the kernel rejected; may be empty
	Detail string // what else explains it: file system, flags; may be empty
	Err    error  // the cause, usually a syscall.Errno
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Path != "" {
		b.WriteByte(' ')
		b.WriteString(e.Path)
	}
	if e.Detail != "" {
		b.WriteString(" (")
		b.WriteString(e.Detail)
		b.WriteByte(')')
	}
	b.WriteString(": ")
	b.WriteString(e.Err.Error())
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }
