package detect

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/idmount/idmount/internal/sys"
)

// Verdict is the answer of a probe. The zero value is Unknown.
type Verdict int

const (
	Unknown Verdict = iota
	No
	Yes
)

var verdictNames = [...]string{Unknown: "unknown", No: "no", Yes: "yes"}

func (v Verdict) String() string {
	if v < 0 || int(v) >= len(verdictNames) {
		return fmt.Sprintf("verdict(%d)", int(v))
	}
	return verdictNames[v]
}

// MarshalText gives "unknown", "no" or "yes".
func (v Verdict) MarshalText() ([]byte, error) {
	if v < 0 || int(v) >= len(verdictNames) {
		return nil, fmt.Errorf("%v: out of range", v)
	}
	return []byte(verdictNames[v]), nil
}

// UnmarshalText reads what MarshalText gives.
func (v *Verdict) UnmarshalText(text []byte) error {
	for i, name := range verdictNames {
		if name == string(text) {
			*v = Verdict(i)
			return nil
		}
	}
	return fmt.Errorf("verdict %q: must be unknown, no or yes", text)
}

// Finding is the result of one probe.
type Finding struct {
	Verdict Verdict
	Reason  string // for a reader who knows mounts, in lower case
	Err     error  // the cause of a No or an Unknown, if a call failed
}

type findingJSON struct {
	Verdict Verdict `json:"verdict"`
	Reason  string  `json:"reason,omitempty"`
	Error   string  `json:"error,omitempty"`
}

// MarshalJSON gives {"verdict", "reason", "error"}; the error is its text.
func (f Finding) MarshalJSON() ([]byte, error) {
	j := findingJSON{Verdict: f.Verdict, Reason: f.Reason}
	if f.Err != nil {
		j.Error = f.Err.Error()
	}
	return json.Marshal(j)
}

// UnmarshalJSON reads what MarshalJSON gives. Of the error only the text
// survives.
func (f *Finding) UnmarshalJSON(data []byte) error {
	var j findingJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return err
	}
	*f = Finding{Verdict: j.Verdict, Reason: j.Reason}
	if j.Error != "" {
		f.Err = errors.New(j.Error)
	}
	return nil
}

func yes(format string, args ...any) Finding {
	return Finding{Verdict: Yes, Reason: fmt.Sprintf(format, args...)}
}

func no(err error, format string, args ...any) Finding {
	return Finding{Verdict: No, Reason: fmt.Sprintf(format, args...) + cause(err), Err: err}
}

func unknown(err error, format string, args ...any) Finding {
	return Finding{Verdict: Unknown, Reason: fmt.Sprintf(format, args...) + cause(err), Err: err}
}

// cause is err in brackets, without the path that the reason names already.
func cause(err error) string {
	var e *sys.Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return fmt.Sprintf(" (%s: %v)", e.Op, e.Err)
	}
	return fmt.Sprintf(" (%v)", err)
}

// isAny says whether err is one of the errnos.
func isAny(err error, errnos ...error) bool {
	for _, e := range errnos {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
