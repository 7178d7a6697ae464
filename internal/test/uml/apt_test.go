package uml

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHostMirrors(t *testing.T) {
	type m = mirror
	for _, tc := range []struct {
		name, targets string
		want          []mirror
	}{
		{"none", "", nil},
		{"the default is not listed twice", "http://deb.debian.org/debian/ \n", nil},
		{"security and others are no mirror", "http://mirror/debian-security/ \nhttps://deb.nodesource.com/node_20.x/ /k.gpg\n", nil},
		{"a local one", "http://mirror/debian/ /usr/share/keyrings/k.gpg\n", []m{{"http://mirror/debian", "/usr/share/keyrings/k.gpg"}}},
		{"a key that is no file", "http://mirror/debian/ $(SIGNED_BY)\n", []m{{"http://mirror/debian", defaultKeyring}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, hostMirrors(tc.targets), cmp.AllowUnexported(mirror{})); diff != "" {
				t.Errorf("mirrors, -want +got:\n%s", diff)
			}
		})
	}
}

func TestAptConf(t *testing.T) {
	conf := aptConf("/w", "/dev/null", `Acquire::AllowInsecureRepositories "1";
Acquire::http::Proxy "http://proxy:3128";
Acquire::IndexTargets::deb::DEP-11::MetaKey "x";
`)
	for _, want := range []string{`Acquire::http::Proxy "http://proxy:3128";`, `Acquire::AllowInsecureRepositories "0";`, `Dir::State::lists "/w/lists";`} {
		if !strings.Contains(conf, want) {
			t.Errorf("configuration lacks %s", want)
		}
	}
	for _, not := range []string{`AllowInsecureRepositories "1"`, "DEP-11"} {
		if strings.Contains(conf, not) {
			t.Errorf("configuration has the host's %s", not)
		}
	}
}

func TestFetchWithoutApt(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := Fetch(context.Background(), "bullseye", t.TempDir()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Fetch without apt: %v, want ErrUnavailable", err)
	}
}

func TestFetchUnknownSuite(t *testing.T) {
	if _, err := Fetch(context.Background(), "potato", t.TempDir()); err == nil || errors.Is(err, ErrUnavailable) {
		t.Errorf("Fetch of an unknown suite: %v, want an error that is not ErrUnavailable", err)
	}
}
