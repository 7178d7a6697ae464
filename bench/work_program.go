package bench

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// programWorkloads run programs as people do.
func programWorkloads() []*workload {
	return []*workload{
		{
			name: "tar", programs: []string{"tar", "rm"}, shared: makeArchive,
			rows: []Row{{Name: "tar-x", Title: "tar -x, a file"}, {Name: "rm-rf", Title: "rm -rf of it, a file"}},
			run: func(ctx context.Context, p *place, m *meter) error {
				dir := filepath.Join(p.own, "tar")
				if err := os.Mkdir(dir, 0o755); err != nil {
					return err
				}
				// From outside of what is measured.
				archive := filepath.Join(p.env.data, "shared", "archive.tar")
				m.begin()
				if err := program(ctx, "", "tar", "-x", "-f", archive, "-C", dir); err != nil {
					return err
				}
				m.end("tar-x", p.env.sourceFiles())
				m.begin()
				if err := program(ctx, "", "rm", "-rf", dir); err != nil {
					return err
				}
				m.end("rm-rf", p.env.sourceFiles())
				return nil
			},
		},
		{
			name: "git", programs: []string{"git"}, own: makeRepository,
			rows: []Row{{Name: "git-cold", Title: "git status, cold"}, {Name: "git-warm", Title: "git status again"}},
			run: func(ctx context.Context, p *place, m *meter) error {
				dir := filepath.Join(p.own, "git")
				status := func() error {
					out, err := command(ctx, dir, "git", "-c", "safe.directory=*", "status", "--porcelain").Output()
					if err != nil {
						return programError("git status", err)
					}
					if len(out) > 0 {
						return fmt.Errorf("git status %s: the work tree has changed: %.100s", dir, out)
					}
					return nil
				}
				// It refreshes its index, which is ours to pay once.
				if err := status(); err != nil {
					return err
				}
				if err := dropCaches(ctx); err != nil {
					return err
				}
				for _, row := range []string{"git-cold", "", "git-warm"} {
					m.begin()
					if err := status(); err != nil {
						return err
					}
					if row != "" {
						m.end(row, 1)
					}
				}
				return nil
			},
		},
		{
			name: "go", programs: []string{"go"}, own: makeModule,
			rows: []Row{{Name: "go-build", Title: "go build, everything built before"}},
			run: func(ctx context.Context, p *place, m *meter) error {
				for _, timed := range []bool{false, true} {
					m.begin()
					if err := goBuild(ctx, filepath.Join(p.own, "go")); err != nil {
						return err
					}
					if timed {
						m.end("go-build", 1)
					}
				}
				return nil
			},
		},
	}
}

// sourceFiles is the size of the tree that the programs work on.
func (e *env) sourceFiles() int { return e.size(1000, 5000) }

// sourceSizes are those of the files of a source tree, again and again; their
// mean is near 6 kB.
var sourceSizes = []int{300, 900, 2_000, 3_500, 5_000, 8_000, 22_000}

// sourceFile is a file of the tree: 25 in a directory, three levels deep.
func sourceFile(i int) (path string, data []byte) {
	path = fmt.Sprintf("src/p%02d/q%02d/file%05d.txt", i/500, i/25%20, i)
	data = bytes.Repeat(fmt.Appendf(nil, "line of file %d\n", i), sourceSizes[i%len(sourceSizes)]/16)
	return path, data
}

func makeArchive(_ context.Context, e *env) error {
	return e.make(filepath.Join(e.data, "shared", "archive.tar"), func(path string) error {
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		defer f.Close()
		w := tar.NewWriter(f)
		for i := range e.sourceFiles() {
			name, data := sourceFile(i)
			err := w.WriteHeader(&tar.Header{
				Name: name, Mode: 0o644, Size: int64(len(data)), ModTime: time.Unix(1_700_000_000, 0), Format: tar.FormatPAX,
			})
			if err != nil {
				return err
			}
			if _, err := w.Write(data); err != nil {
				return err
			}
		}
		return w.Close()
	})
}

// makeRepository makes a repository without the help of any user's settings.
func makeRepository(ctx context.Context, e *env, dir string) error {
	return e.make(filepath.Join(dir, "git"), func(path string) error {
		for i := range e.size(1000, 5000) {
			name, data := sourceFile(i)
			file := filepath.Join(path, name)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(file, data, 0o644); err != nil {
				return err
			}
		}
		for _, args := range [][]string{
			{"init", "-q"},
			// Nothing may go on in the background later.
			{"config", "gc.auto", "0"},
			{"config", "core.fsmonitor", "false"},
			{"config", "core.untrackedCache", "false"},
			{"add", "-A"},
			{"-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "commit.gpgsign=false", "commit", "-q", "-m", "all"},
		} {
			if err := program(ctx, path, "git", args...); err != nil {
				return err
			}
		}
		return nil
	})
}

// makeModule makes a Go module and fills a build cache for it, once; the other
// systems get copies.
func makeModule(ctx context.Context, e *env, dir string) error {
	return e.make(filepath.Join(dir, "go"), func(path string) error {
		model := filepath.Join(e.data, "shared", "go")
		err := e.make(model, func(model string) error {
			for i := range e.size(50, 200) {
				pkg := filepath.Join(model, fmt.Sprintf("p%03d", i))
				if err := os.MkdirAll(pkg, 0o755); err != nil {
					return err
				}
				text := fmt.Sprintf("package p%03d\n\nfunc F() int { return %d }\n", i, i)
				if err := os.WriteFile(filepath.Join(pkg, "f.go"), []byte(text), 0o644); err != nil {
					return err
				}
			}
			if err := os.WriteFile(filepath.Join(model, "go.mod"), []byte("module bench\n\ngo 1.21\n"), 0o644); err != nil {
				return err
			}
			return goBuild(ctx, model)
		})
		if err != nil {
			return err
		}
		return program(ctx, "", "cp", "-a", model, path)
	})
}

// goBuild builds all packages with the cache in the module's directory.
func goBuild(ctx context.Context, dir string) error {
	cmd := command(ctx, dir, "go", "build", "-trimpath", "./...")
	cmd.Env = append(cmd.Env, "GOCACHE="+filepath.Join(dir, ".cache"), "GOPATH="+filepath.Join(dir, ".path"),
		"GOFLAGS=-buildvcs=false", "GOTOOLCHAIN=local", "GOTELEMETRY=off", "CGO_ENABLED=0", "GOENV=off", "GOWORK=off", "GOPROXY=off")
	_, err := cmd.Output()
	return programError("go build", err)
}

// command is a program with an environment that says nothing of the user.
func command(ctx context.Context, dir, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "LC_ALL=C",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null"}
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

func program(ctx context.Context, dir, name string, args ...string) error {
	_, err := command(ctx, dir, name, args...).Output()
	return programError(name, err)
}

// programError adds what a program has said.
func programError(name string, err error) error {
	if err == nil {
		return nil
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(exit.Stderr)))
	}
	return fmt.Errorf("%s: %w", name, err)
}
