package idmap

// Compose returns the map that does m first and then next: a disk id of m is
// seen as what next makes of its view id. An id that either of them leaves
// unmapped stays so. It is an error if that takes more extents than the kernel
// has.
func (m Map) Compose(next Map) (Map, error) {
	return New(m.uid.compose(next.uid), m.gid.compose(next.gid))
}

func (t *table) compose(next *table) []Extent {
	if t == nil || next == nil {
		return nil
	}
	var out table
	for _, a := range t.toView {
		for _, b := range next.toView {
			// Ids between a's view and b's disk. Ends are below 2^32.
			from, to := max(a.View, b.Disk), min(a.View+a.Count, b.Disk+b.Count)
			if from < to {
				out.toView = append(out.toView, Extent{Disk: a.Disk + (from - a.View), View: b.View + (from - b.Disk), Count: to - from})
			}
		}
	}
	sortExtents(out.toView)
	return out.merged()
}
