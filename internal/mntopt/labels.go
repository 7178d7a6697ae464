package mntopt

// Labels are the SELinux options of a mount. They belong to its superblock, so
// that a FUSE mount can have them and a native one can't.
type Labels struct {
	Context     string `json:"context,omitempty"`
	FSContext   string `json:"fscontext,omitempty"`
	DefContext  string `json:"defcontext,omitempty"`
	RootContext string `json:"rootcontext,omitempty"`
}

// A Label is one of them.
type Label struct{ Name, Value string }

// String is the option as a list has it and as mount(2) wants it: commas split a
// list outside of double quotes only.
func (l Label) String() string { return l.Name + `="` + l.Value + `"` }

// IsZero says that there is none.
func (l Labels) IsZero() bool { return l == Labels{} }

// All returns those that are given.
func (l Labels) All() []Label {
	var all []Label
	for _, name := range []string{"context", "fscontext", "defcontext", "rootcontext"} {
		if v := *l.field(name); v != "" {
			all = append(all, Label{name, v})
		}
	}
	return all
}

// field returns the label of that name, nil if none is called so.
func (l *Labels) field(name string) *string {
	switch name {
	case "context":
		return &l.Context
	case "fscontext":
		return &l.FSContext
	case "defcontext":
		return &l.DefContext
	case "rootcontext":
		return &l.RootContext
	}
	return nil
}
