package fusefs_test

import (
	"testing"
	"time"

	"github.com/idmount/idmount/fusefs"
)

func TestParseCache(t *testing.T) {
	for _, test := range []struct {
		text string
		want fusefs.Cache
	}{
		{"", fusefs.Cache{Mode: fusefs.CacheCoherent}},
		{"coherent", fusefs.Cache{Mode: fusefs.CacheCoherent}},
		{"none", fusefs.Cache{Mode: fusefs.CacheNone}},
		{"exclusive", fusefs.Cache{Mode: fusefs.CacheExclusive}},
		{"ttl=1m30s", fusefs.Cache{Mode: fusefs.CacheTTL, TTL: 90 * time.Second}},
		{"ttl=250ms", fusefs.Cache{Mode: fusefs.CacheTTL, TTL: 250 * time.Millisecond}},
	} {
		got, err := fusefs.ParseCache(test.text)
		if err != nil || got != test.want {
			t.Errorf("ParseCache(%q) = %v, %v, want %v", test.text, got, err, test.want)
		}
		if again, err := fusefs.ParseCache(got.String()); err != nil || again != got {
			t.Errorf("ParseCache(%q) = %v, %v, want %v", got.String(), again, err, got)
		}
	}
	for _, text := range []string{"ttl", "ttl=", "ttl=0s", "ttl=-1s", "ttl=1", "ttl=9000h", "none=1s", "coherent=", "always", " none", "=1s"} {
		if got, err := fusefs.ParseCache(text); err == nil {
			t.Errorf("ParseCache(%q) = %v, want an error", text, got)
		}
	}
}
