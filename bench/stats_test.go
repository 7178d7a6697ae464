package bench

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   Spread
	}{
		{nil, Spread{}},
		{[]float64{3}, Spread{3, 3, 3}},
		{[]float64{9, 1, 2}, Spread{2, 1, 9}},
		{[]float64{4, 1, 2, 8}, Spread{3, 1, 8}},
	} {
		before := append([]float64(nil), c.values...)
		if got := spread(c.values); got != c.want {
			t.Errorf("spread(%v) = %v, want %v", c.values, got, c.want)
		}
		if diff := cmp.Diff(before, c.values); diff != "" {
			t.Errorf("the rounds have lost their order:\n%s", diff)
		}
	}
}

func TestRatiosAreOfOneRound(t *testing.T) {
	for _, c := range []struct {
		name               string
		values, base, want []float64
	}{
		{"all", []float64{10, 30, 20}, []float64{5, 10, 2}, []float64{2, 3, 10}},
		{"a round is missing", []float64{10, 0, 20}, []float64{5, 10, 2}, []float64{2, 10}},
		{"the baseline misses one", []float64{10, 30, 20}, []float64{5, 10}, []float64{2, 3}},
		{"no number", []float64{10, 30}, []float64{math.Inf(1), 0}, nil},
		{"no baseline", []float64{10}, nil, nil},
	} {
		if diff := cmp.Diff(c.want, ratios(c.values, c.base)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}
