package detect

import "time"

const (
	// leasePeriod is how often a kubelet renews its Lease: a quarter of its
	// default duration of 40 s, plus the jitter and a slow API server.
	leasePeriod = 12 * time.Second
	// leaseSilence is how long no renewal is seen before that alone says that a
	// node is unreachable. It only counts where membership knows nothing.
	leaseSilence = 25 * time.Second
	// leaseSlack is how much later than the checkpointer's last sign of life a
	// renewal must be to prove that the node outlived it: it covers the time
	// between two pings, and what is left of the errors below.
	leaseSlack = time.Second
	// maxDelay is the longest that a renewal is believed to have been on its way.
	// What seems to have taken longer was made by a clock that was set back.
	maxDelay = 30 * time.Second
)

// lease is what the renewals of a kubelet's Lease tell.
type lease struct {
	// renewed is the last renewal's time by the node's clock.
	renewed time.Time
	// seen is when a renewal was last watched happening; zero before that.
	seen time.Time
	// alive is the last moment at which the kubelet renewed, by the clock here. It
	// is never later than when that was seen, and never goes back.
	alive time.Time
	// offsets are how much later than its own time each of the last renewals was
	// seen: what the clocks differ by, and how long it was on its way. The least of
	// them tells the first from the second.
	offsets [3]time.Duration
	heard   int
}

// take takes in a Lease, and says whether a renewal was watched happening. The
// Lease that is there when the watch begins was not.
func (l *lease) take(now, renewed time.Time) bool {
	if renewed.Equal(l.renewed) {
		return false
	}
	first := l.renewed.IsZero()
	l.renewed = renewed
	// Until there are two to compare, the node's clock is believed, and so it is
	// where that puts the renewal a little into the past; but never past now.
	offset := now.Sub(renewed)
	delay := max(0, offset)
	if !first {
		l.seen = now
		switch known := l.delay(offset); {
		case l.heard < 2:
		case delay <= leaseSlack:
			delay = max(delay, known)
		default:
			delay = known
		}
	}
	l.alive = later(l.alive, now.Add(-delay))
	return !first
}

// delay takes in the offset of a renewal, and returns how long it was on its way.
func (l *lease) delay(offset time.Duration) time.Duration {
	least := offset
	for _, known := range l.offsets[:min(l.heard, len(l.offsets))] {
		least = min(least, known)
	}
	if offset-least > maxDelay {
		least, l.heard = offset, 0 // the clock was set back: begin anew
	}
	l.offsets[l.heard%len(l.offsets)] = offset
	l.heard++
	return offset - least
}

// outlived says whether the kubelet was alive after a moment, and still may be.
func (l *lease) outlived(moment, now time.Time) bool {
	return !l.seen.IsZero() && l.alive.After(moment.Add(leaseSlack)) && now.Sub(l.seen) <= leasePeriod
}

// hearing is whether Leases are heard of at all. Who hears of none cannot tell a
// silent kubelet from an API server that does not answer, or from having been
// stopped itself.
type hearing struct {
	// since is since when some node's Lease was renewed at least every leasePeriod,
	// and last when one was renewed last.
	since, last time.Time
}

// renewal takes in that some Lease was seen to be renewed.
func (h *hearing) renewal(now time.Time) {
	if h.last.IsZero() || now.Sub(h.last) > leasePeriod {
		h.since = now
	}
	h.last = now
}

// silence is how long others were heard since a moment.
func (h hearing) silence(since time.Time) time.Duration {
	return max(0, h.last.Sub(later(since, h.since)))
}
