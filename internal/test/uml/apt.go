package uml

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	defaultMirror  = "http://deb.debian.org/debian"
	archiveMirror  = "http://archive.debian.org/debian" // where releases go in the end
	defaultKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
)

// apt is apt with a configuration, lists and a cache of its own below dir.
// Of the host it uses the keyring, the mirror's address and the way to reach
// it (proxies), nothing else: the host's hooks do not run either.
type apt struct {
	dir string
}

// newApt writes the private configuration. sources is the text of a
// sources.list; status is the dpkg status file to resolve dependencies
// against, /dev/null for none.
func newApt(ctx context.Context, dir, sources, status string) (*apt, error) {
	for _, sub := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	a := &apt{dir: dir}
	dump, _ := exec.CommandContext(ctx, "apt-config", "dump", "Acquire").Output()
	conf := aptConf(dir, status, string(dump))
	if err := os.WriteFile(filepath.Join(dir, "sources.list"), []byte(sources), 0o644); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "empty"), 0o755); err != nil {
		return nil, err
	}
	return a, os.WriteFile(filepath.Join(dir, "apt.conf"), []byte(conf), 0o644)
}

// aptConf is the text of the private configuration: how the host reaches its
// mirrors, picked from its own configuration as `apt-config dump` prints it,
// and our directories.
func aptConf(dir, status, hostDump string) string {
	var b strings.Builder
	for line := range strings.Lines(hostDump) {
		for _, prefix := range []string{"Acquire::http", "Acquire::https", "Acquire::Retries", "Acquire::ForceIPv", "Acquire::Check-"} {
			if strings.HasPrefix(line, prefix) {
				b.WriteString(line)
				break
			}
		}
	}
	// Where there is no network, that should be known soon.
	fmt.Fprintf(&b, `Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
Acquire::Retries "1";
Acquire::AllowInsecureRepositories "0";
Acquire::AllowWeakRepositories "0";
APT::Get::AllowUnauthenticated "0";
APT::Sandbox::User "root";
Acquire::Languages "none";
Dir::Etc::main "%[1]s/empty/none";
Dir::Etc::parts "%[1]s/empty";
Dir::Etc::sourcelist "%[1]s/sources.list";
Dir::Etc::sourceparts "%[1]s/empty";
Dir::Etc::preferences "%[1]s/empty/none";
Dir::Etc::preferencesparts "%[1]s/empty";
Dir::State "%[1]s";
Dir::State::status "%[2]s";
Dir::State::lists "%[1]s/lists";
Dir::Cache "%[1]s/cache";
Dir::Log "%[1]s";
Debug::NoLocking "1";
`, dir, status)
	return b.String()
}

// get runs apt-get with the private configuration in a's directory.
func (a *apt) get(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-q", "-y"}, args...)...)
	cmd.Dir = a.dir
	// apt reads APT_CONFIG first, so Dir::Etc::parts there keeps apt from
	// reading /etc/apt/apt.conf.d at all.
	cmd.Env = append(os.Environ(), "APT_CONFIG="+filepath.Join(a.dir, "apt.conf"), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("apt-get %s: %w: %s", strings.Join(args, " "), err, lastLines(out, 5))
	}
	return nil
}

// update fetches the lists. A list that could not be fetched is an error:
// apt-get alone only warns of it.
func (a *apt) update(ctx context.Context) error {
	return a.get(ctx, "update", "--error-on=any")
}

// unpack unpacks the packages that match pattern below a's directory.
func (a *apt) unpack(ctx context.Context, pattern, root string) error {
	debs, err := filepath.Glob(filepath.Join(a.dir, pattern))
	if err != nil {
		return err
	}
	if len(debs) == 0 {
		return fmt.Errorf("unpack %s: no such package was fetched", pattern)
	}
	for _, deb := range debs {
		if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", deb, root).CombinedOutput(); err != nil {
			return fmt.Errorf("dpkg-deb -x %s: %w: %s", filepath.Base(deb), err, lastLines(out, 3))
		}
	}
	return nil
}

// mirror is an archive and the keyring that its signatures are checked with.
type mirror struct {
	uri, keyring string
}

func (m mirror) source(suite string) string {
	return fmt.Sprintf("deb [signed-by=%s] %s %s main\n", m.keyring, m.uri, suite)
}

// mirrors lists where a suite may be: the host's own mirror, Debian's, and the
// archive of old releases.
func mirrors(ctx context.Context) []mirror {
	out, _ := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI) $(SIGNED_BY)").Output()
	return append(hostMirrors(string(out)), mirror{defaultMirror, defaultKeyring}, mirror{archiveMirror, defaultKeyring})
}

// hostMirrors picks the first Debian mirror of apt's index targets, one a
// line: address, keyring.
func hostMirrors(targets string) []mirror {
	for line := range strings.Lines(targets) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		uri := strings.TrimSuffix(fields[0], "/")
		if !strings.HasSuffix(uri, "/debian") || uri == defaultMirror {
			continue
		}
		keyring := defaultKeyring
		if len(fields) == 2 && filepath.IsAbs(fields[1]) {
			keyring = fields[1]
		}
		return []mirror{{uri, keyring}}
	}
	return nil
}

func lastLines(out []byte, n int) string {
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-n):], []byte("; ")))
}
