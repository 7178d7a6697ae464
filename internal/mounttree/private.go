package mounttree

import "github.com/idmount/idmount/internal/sys"

// Private calls fn on a thread that has a mount namespace of its own, a copy of the
// caller's. Nothing that is mounted there is seen elsewhere, or the reverse.
func Private(fn func() error) (err error) {
	sys.OnOwnThread(func() {
		if err = sys.PrivateMounts(); err == nil {
			err = fn()
		}
	})
	return err
}
