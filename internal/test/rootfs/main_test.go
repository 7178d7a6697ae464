package rootfs

import (
	"os"
	"testing"

	"github.com/idmount/idmount/internal/test/testenv"
)

func TestMain(m *testing.M) {
	if what := os.Getenv(insideEnv); what != "" {
		os.Exit(insideMain(what))
	}
	testenv.Main(m)
}
