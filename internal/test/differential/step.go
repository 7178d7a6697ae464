package differential

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Step is one call by one caller. Which fields a call uses is in calls.
type Step struct {
	By    string // a caller class of package conformance, or "disk"
	Call  string
	Path  string // "" is the file of Slot
	To    string // second path
	Slot  int    // of an open file of the caller, 1 to slots
	Slot2 int
	Flags int
	Mode  uint32
	Umask int
	Off   int64
	Len   int64
	Owner string // two roles, of the user and of the group
	Name  string // of an extended attribute
	Value string // of an extended attribute, or times
}

// disk is the caller that changes the source behind the mount's back.
const disk = "disk"

// slots is how many files each caller can have open.
const slots = 2

// field is one field of a Step in its text: get returns "" for none.
type field struct {
	key string
	get func(*Step) string
	set func(*Step, string) error
}

var fields = []field{
	text("to", func(s *Step) *string { return &s.To }),
	number("slot", func(s *Step) *int { return &s.Slot }),
	number("slot2", func(s *Step) *int { return &s.Slot2 }),
	{"flags", func(s *Step) string { return flagText(s) }, func(s *Step, v string) (err error) {
		s.Flags, err = parseFlags(s.Call, v)
		return err
	}},
	{"mode", func(s *Step) string {
		if s.Mode == 0 {
			return ""
		}
		return fmt.Sprintf("%#o", s.Mode)
	}, func(s *Step, v string) error {
		n, err := strconv.ParseUint(v, 0, 32)
		s.Mode = uint32(n)
		return err
	}},
	number("umask", func(s *Step) *int { return &s.Umask }),
	long("off", func(s *Step) *int64 { return &s.Off }),
	long("len", func(s *Step) *int64 { return &s.Len }),
	text("owner", func(s *Step) *string { return &s.Owner }),
	text("name", func(s *Step) *string { return &s.Name }),
	text("value", func(s *Step) *string { return &s.Value }),
}

func text(key string, at func(*Step) *string) field {
	return field{key, func(s *Step) string {
		v := *at(s)
		if strings.ContainsAny(v, " \"\\") {
			return strconv.Quote(v)
		}
		return v
	}, func(s *Step, v string) (err error) {
		if strings.HasPrefix(v, `"`) {
			v, err = strconv.Unquote(v)
		}
		*at(s) = v
		return err
	}}
}

func number(key string, at func(*Step) *int) field {
	return field{key, func(s *Step) string {
		if *at(s) == 0 {
			return ""
		}
		return strconv.Itoa(*at(s))
	}, func(s *Step, v string) (err error) {
		*at(s), err = strconv.Atoi(v)
		return err
	}}
}

func long(key string, at func(*Step) *int64) field {
	return field{key, func(s *Step) string {
		if *at(s) == 0 {
			return ""
		}
		return strconv.FormatInt(*at(s), 10)
	}, func(s *Step, v string) (err error) {
		*at(s), err = strconv.ParseInt(v, 10, 64)
		return err
	}}
}

// String is the step as a line of a script.
func (s *Step) String() string {
	path := s.Path
	if path == "" {
		path = "-"
	}
	b := strings.Builder{}
	fmt.Fprintf(&b, "%s %s %s", s.By, s.Call, path)
	for _, f := range fields {
		if v := f.get(s); v != "" {
			fmt.Fprintf(&b, " %s=%s", f.key, v)
		}
	}
	return b.String()
}

// parseStep is the inverse of String.
func parseStep(line string) (*Step, error) {
	words, err := split(line)
	if err != nil {
		return nil, err
	}
	if len(words) < 3 {
		return nil, fmt.Errorf("step %q: want CALLER CALL PATH", line)
	}
	s := &Step{By: words[0], Call: words[1], Path: words[2]}
	if s.Path == "-" {
		s.Path = ""
	}
	if calls[s.Call] == nil {
		return nil, fmt.Errorf("step %q: no call %q", line, s.Call)
	}
next:
	for _, w := range words[3:] {
		key, value, _ := strings.Cut(w, "=")
		for _, f := range fields {
			if f.key == key {
				if err := f.set(s, value); err != nil {
					return nil, fmt.Errorf("step %q: %s: %w", line, key, err)
				}
				continue next
			}
		}
		return nil, fmt.Errorf("step %q: no field %q", line, key)
	}
	return s, nil
}

// split cuts a line at spaces that are not quoted.
func split(line string) ([]string, error) {
	var words []string
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimLeft(line, " ") {
		end := strings.IndexByte(line, ' ')
		quote := strings.Index(line, `="`)
		if quote >= 0 && (end < 0 || quote < end) {
			q, err := strconv.QuotedPrefix(line[quote+1:])
			if err != nil {
				return nil, fmt.Errorf("step %q: %w", line, err)
			}
			end = quote + 1 + len(q)
		}
		if end < 0 {
			end = len(line)
		}
		words = append(words, line[:end])
		line = line[end:]
	}
	return words, nil
}

type flagName struct {
	name string
	bits int
}

// flagNames are by call, the longer sets of bits first.
var flagNames = map[string][]flagName{
	"open": {
		{"O_TMPFILE", unix.O_TMPFILE}, {"O_SYNC", unix.O_SYNC}, {"O_DSYNC", unix.O_DSYNC},
		{"O_WRONLY", unix.O_WRONLY}, {"O_RDWR", unix.O_RDWR}, {"O_CREAT", unix.O_CREAT}, {"O_EXCL", unix.O_EXCL},
		{"O_TRUNC", unix.O_TRUNC}, {"O_APPEND", unix.O_APPEND}, {"O_NOATIME", unix.O_NOATIME},
		{"O_DIRECTORY", unix.O_DIRECTORY}, {"O_NOFOLLOW", unix.O_NOFOLLOW}, {"O_PATH", unix.O_PATH}, {"O_DIRECT", unix.O_DIRECT},
	},
	"rename": {
		{"RENAME_NOREPLACE", unix.RENAME_NOREPLACE}, {"RENAME_EXCHANGE", unix.RENAME_EXCHANGE}, {"RENAME_WHITEOUT", unix.RENAME_WHITEOUT},
	},
	"fallocate": {
		{"PUNCH_HOLE", unix.FALLOC_FL_PUNCH_HOLE}, {"ZERO_RANGE", unix.FALLOC_FL_ZERO_RANGE}, {"KEEP_SIZE", unix.FALLOC_FL_KEEP_SIZE},
	},
	"setxattr": {{"XATTR_CREATE", unix.XATTR_CREATE}, {"XATTR_REPLACE", unix.XATTR_REPLACE}},
}

func flagText(s *Step) string {
	if s.Flags == 0 {
		return ""
	}
	var names []string
	left := s.Flags
	for _, f := range flagNames[s.Call] {
		if left&f.bits == f.bits {
			names = append(names, f.name)
			left &^= f.bits
		}
	}
	if left != 0 {
		names = append(names, fmt.Sprintf("%#x", left))
	}
	return strings.Join(names, "|")
}

func parseFlags(call, text string) (int, error) {
	flags := 0
next:
	for name := range strings.SplitSeq(text, "|") {
		for _, f := range flagNames[call] {
			if f.name == name {
				flags |= f.bits
				continue next
			}
		}
		n, err := strconv.ParseInt(name, 0, 64)
		if err != nil {
			return 0, err
		}
		flags |= int(n)
	}
	return flags, nil
}
