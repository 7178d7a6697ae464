package detect

import (
	"context"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/idmount/idmount/internal/test/testenv"
)

// ownerServer is a FUSE server whose root is owned by a fixed user, or by whoever asks.
type ownerServer struct {
	fuse.RawFileSystem
	callers bool
}

func (s *ownerServer) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.Mode, out.Nlink, out.Owner = fuse.S_IFDIR|0o755, 2, fuse.Owner{Uid: 1000, Gid: 1001}
	if s.callers {
		out.Owner = in.Caller.Owner
	}
	return fuse.OK
}

// A file system that takes a map and shows wrong owners is not for the native backend.
func TestProbeOwners(t *testing.T) {
	testenv.RequireRoot(t)
	for _, tt := range []struct {
		name    string
		callers bool
		want    Verdict
	}{{"fixed owner", false, Yes}, {"whoever asks", true, No}} {
		t.Run(tt.name, func(t *testing.T) {
			dir := testenv.Dir(t)
			server, err := fuse.NewServer(&ownerServer{fuse.NewDefaultRawFileSystem(), tt.callers}, dir, &fuse.MountOptions{
				AllowOther: true, DirectMountStrict: true, IDMappedMount: true, Options: []string{"default_permissions"},
			})
			if err != nil {
				t.Fatal(err)
			}
			go server.Serve()
			defer server.Unmount()
			if err := server.WaitMount(); err != nil {
				t.Fatal(err)
			}
			r, err := Probe(context.Background(), dir, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if tt.want == Yes && r.Idmap.Verdict == No {
				testenv.Skip(t, testenv.NeedKernel, r.Idmap.Reason) // before 6.12
			}
			if r.Idmap.Verdict != tt.want {
				t.Errorf("%v: %s; want %v", r.Idmap.Verdict, r.Idmap.Reason, tt.want)
			}
			t.Log(r.Idmap.Reason)
		})
	}
}
