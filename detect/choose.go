package detect

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Choice is the backend to use, and why.
type Choice struct {
	Backend Backend `json:"backend"`
	Reason  string  `json:"reason"`
}

// ErrUnsupported is the cause when no backend, or not the wanted one, works.
var ErrUnsupported = errors.New("not supported here")

// Choose picks the backend from what a report says. Auto takes the first that
// is known to work of native, relay and translate; the reason tells why those
// before it were passed over. A wanted backend is refused if it is known not
// to work; if that is unknown it is worth a try, and the reason says so.
func Choose(r *Report, want Backend) (Choice, error) {
	switch want {
	case Native, Relay, Translate:
		f := r.Supports(want)
		switch f.Verdict {
		case No:
			return Choice{}, fmt.Errorf("backend %s for %s: %s: %w", want, r.Path, f.Reason, ErrUnsupported)
		case Unknown:
			return Choice{want, fmt.Sprintf("%s: asked for, and not known to work: %s", want, f.Reason)}, nil
		}
		return Choice{want, fmt.Sprintf("%s: asked for: %s", want, f.Reason)}, nil
	case Auto, "":
	default:
		return Choice{}, fmt.Errorf("backend %q: must be auto, native, relay or translate", want)
	}

	var reasons []string
	for _, b := range []Backend{Native, Relay, Translate} {
		f := r.Supports(b)
		reasons = append(reasons, fmt.Sprintf("%s: %s", b, f.Reason))
		if f.Verdict == Yes {
			return Choice{b, strings.Join(reasons, "; ")}, nil
		}
	}
	return Choice{}, fmt.Errorf("no backend for %s: %s: %w", r.Path, strings.Join(reasons, "; "), ErrUnsupported)
}

// After returns the choice when the backend of one by Auto has failed: the next that
// is known to work. The reason tells what has failed, and why.
func After(r *Report, c Choice, failed error) (Choice, bool) {
	order := []Backend{Native, Relay, Translate}
	at := slices.Index(order, c.Backend)
	reasons := []string{fmt.Sprintf("%s: failed: %v", c.Backend, failed)}
	// What came before has been passed over with a reason, the backend's own is wrong.
	if before, _, ok := strings.Cut(c.Reason, string(c.Backend)+": "); ok && before != "" {
		reasons = append([]string{strings.TrimSuffix(before, "; ")}, reasons...)
	}
	for _, b := range order[at+1:] {
		f := r.Supports(b)
		reasons = append(reasons, fmt.Sprintf("%s: %s", b, f.Reason))
		if f.Verdict == Yes {
			return Choice{b, strings.Join(reasons, "; ")}, true
		}
	}
	return Choice{}, false
}
