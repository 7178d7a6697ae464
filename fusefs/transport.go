package fusefs

import (
	"errors"
	"fmt"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/idmount/idmount/internal/fuseconn"
)

// Transport is how requests reach the server. The zero value is TransportAuto.
type Transport uint8

const (
	// TransportAuto is TransportRing where the kernel has it switched on, but
	// for remote sources: one whose server is away would keep threads of the
	// ring that are needed by others.
	TransportAuto Transport = iota
	// TransportDevice is read(2) and write(2) of /dev/fuse.
	TransportDevice
	// TransportRing is FUSE over io_uring (Linux 6.14): the server's threads
	// are woken on their callers' processors.
	TransportRing
)

var transportNames = [...]string{TransportAuto: "auto", TransportDevice: "dev", TransportRing: "uring"}

// ParseTransport reads auto, dev or uring. An empty text is auto.
func ParseTransport(s string) (Transport, error) {
	for t, name := range transportNames {
		if s == name {
			return Transport(t), nil
		}
	}
	if s == "" {
		return TransportAuto, nil
	}
	return TransportAuto, fmt.Errorf("transport %q: want auto, dev or uring", s)
}

// String is the text that ParseTransport reads back.
func (t Transport) String() string { return transportNames[t] }

// MarshalText is String.
func (t Transport) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText is ParseTransport.
func (t *Transport) UnmarshalText(text []byte) error {
	parsed, err := ParseTransport(string(text))
	if err == nil {
		*t = parsed
	}
	return err
}

// prepareRings makes what TransportRing takes, and reports whether the kernel is
// to be told to use it.
func (f *FS) prepareRings(conn *fuseconn.Conn, payload int) (bool, error) {
	if f.transport == TransportDevice || f.transport == TransportAuto && (f.remoteData || f.asCallers) {
		return false, nil
	}
	err := errors.New("the kernel does not offer it")
	if conn.Init.Flags&fuse.CAP_OVER_IO_URING != 0 {
		err = conn.PrepareRings(payload)
	} else if f.transport == TransportAuto {
		return false, nil
	}
	switch {
	case err == nil:
		return true, nil
	case f.transport == TransportRing:
		return false, fmt.Errorf("FUSE over io_uring: %w", err)
	}
	f.log.Info("requests come over /dev/fuse", "source", f.source.Name(), "cause", err)
	return false, nil
}
