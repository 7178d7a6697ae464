package bench

import (
	"math"
	"slices"
)

// Spread is what repeated measurements say.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// spread of values; of none it is zero.
func spread(values []float64) Spread {
	if len(values) == 0 {
		return Spread{}
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	median := sorted[n/2]
	if n%2 == 0 {
		median = (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return Spread{Median: median, Min: sorted[0], Max: sorted[n-1]}
}

// ratios compares two systems round by round. A round that one of them has not
// finished (its value is not a positive number) says nothing and is left out.
func ratios(values, base []float64) []float64 {
	var out []float64
	for round := range min(len(values), len(base)) {
		v, b := values[round], base[round]
		if v > 0 && b > 0 && !math.IsInf(v, 0) && !math.IsInf(b, 0) {
			out = append(out, v/b)
		}
	}
	return out
}
