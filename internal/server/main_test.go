package server

import (
	"testing"

	"github.com/coreos/go-systemd/v22/journal"

	"github.com/idmount/idmount/internal/test/testenv"
)

func TestMain(m *testing.M) {
	journal.Enabled() // opens a socket that stays, and is no leak of a test
	testenv.Main(m)
}
