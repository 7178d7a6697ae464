package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// settingEnv names, for the process that is killed, the file it sets.
const settingEnv = "IDMOUNT_TESTENV_SETTING"

func TestSetting(t *testing.T) {
	if path := os.Getenv(settingEnv); path != "" {
		Setting(t, path, "new")
		time.Sleep(time.Minute) // to be killed
		return
	}
	path := filepath.Join(t.TempDir(), "setting")
	if err := os.WriteFile(path, []byte("old\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	has := func(want string) {
		t.Helper()
		var text []byte
		if !Becomes(func() bool { text, _ = os.ReadFile(path); return string(text) == want }) {
			t.Fatalf("the setting is %q, want %q", text, want)
		}
	}
	t.Run("until the test ends", func(t *testing.T) {
		Setting(t, path, "new")
		has("new")
	})
	has("old")
	killed := exec.Command("/proc/self/exe", "-test.run=^TestSetting$")
	killed.Env = append(os.Environ(), settingEnv+"="+path)
	if err := killed.Start(); err != nil {
		t.Fatal(err)
	}
	has("new")
	if err := killed.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = killed.Wait()
	has("old")
}
