package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/idmount/idmount"
	"github.com/idmount/idmount/idmap"
)

// ServerCommand is the hidden subcommand of the idmount program that runs Serve.
const ServerCommand = "bench-server"

// A measured mount is served by a process of its own, as every FUSE mount is,
// but one that is tied to the benchmark by two pipes: it reads a request, says
// when the mount is ready, then answers each further line with the counts of its
// requests, and unmounts at the end of its input, however that comes about.

// serverRequest is what a server is asked for.
type serverRequest struct {
	Source, Target string
	Map            idmap.Map
	Backend        idmount.Backend
	Transport      string
	Cache          string
	NoPass         bool
	Descriptors    uint64 // RLIMIT_NOFILE; 0 leaves it
}

// serverReply is each of its answers.
type serverReply struct {
	Error    string            `json:",omitempty"`
	Requests map[string]uint64 `json:",omitempty"`
}

// options are those of the mount.
func (r *serverRequest) options() (idmount.Options, error) {
	o := idmount.Options{Map: r.Map, Backend: r.Backend, NoPassthrough: r.NoPass}
	// What is the default where FUSE is needed: on a file system that the kernel can
	// ID-map, it would be without passthrough.
	o.Stacking = "1"
	transport := r.Transport
	if transport == "" {
		transport = "dev"
	}
	var err error
	if o.Transport, err = idmount.ParseTransport(transport); err != nil {
		return o, err
	}
	cache := r.Cache
	if cache == "ttl" {
		cache = "ttl=1s" // as the peers have it
	}
	o.Cache, err = idmount.ParseCache(cache)
	return o, err
}

// Serve is the server's end. It is for the idmount program's own use.
func Serve(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	in, out := json.NewDecoder(stdin), json.NewEncoder(stdout)
	var r serverRequest
	if err := in.Decode(&r); err != nil {
		return fmt.Errorf("bench: this command is started by idmount itself: read the request: %w", err)
	}
	err := r.serve(ctx, in, out)
	if err != nil {
		out.Encode(serverReply{Error: err.Error()})
	}
	return err
}

func (r *serverRequest) serve(ctx context.Context, in *json.Decoder, out *json.Encoder) error {
	if r.Descriptors > 0 {
		limit := unix.Rlimit{Cur: r.Descriptors, Max: r.Descriptors}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			return fmt.Errorf("setrlimit (%d descriptors): %w", r.Descriptors, err)
		}
	}
	o, err := r.options()
	if err != nil {
		return err
	}
	requests := new(idmount.Requests)
	o.Requests = requests
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	return idmount.Serve(ctx, r.Source, r.Target, o, func(*idmount.Mounted) {
		out.Encode(serverReply{})
		go func() {
			var line string
			for {
				if err := in.Decode(&line); err != nil {
					stop(err)
					return
				}
				if err := out.Encode(serverReply{Requests: requests.Counts()}); err != nil {
					stop(err)
					return
				}
			}
		}()
	})
}

var errEnded = errors.New("the server has ended")
