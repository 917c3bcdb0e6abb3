package main

// maxHosts is how many hosts there are at most: nodes, the API server, and two
// watchers on hosts of their own.
const maxHosts = 12

// network carries messages between hosts. Directions are cut one by one.
type network struct {
	cuts [maxHosts][maxHosts]uint8 // how many faults cut this direction
	lag  [maxHosts]int64           // what a host's messages take at most beyond the usual
	loss [maxHosts]int             // how many of a thousand messages of a host are lost
}

func (n *network) cut(from, to int, by int) { n.cuts[from][to] = uint8(int(n.cuts[from][to]) + by) }

// travel is how long a message takes from one host to another, and whether it
// arrives.
func (w *world) travel(from, to int) (int64, bool) {
	if from == to {
		return 20_000, true
	}
	n := &w.net
	if n.cuts[from][to] != 0 {
		return 0, false
	}
	if loss := n.loss[from] + n.loss[to]; loss > 0 && w.random.below(1000) < int64(loss) {
		return 0, false
	}
	delay := 100_000 + w.random.below(600_000)
	if w.random.below(128) == 0 {
		delay += w.random.below(30 * millisecond)
	}
	if lag := n.lag[from] + n.lag[to]; lag > 0 {
		delay += w.random.below(lag)
	}
	return delay, true
}

// open says whether a direction is not cut at present.
func (w *world) open(from, to int) bool { return from == to || w.net.cuts[from][to] == 0 }

// random is a small, fast generator (splitmix64), the same for the same seed on
// every machine.
type random struct{ state uint64 }

func (r *random) next() uint64 {
	r.state += 0x9e3779b97f4a7c15
	z := r.state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// below is at least 0 and below n.
func (r *random) below(n int64) int64 {
	if n <= 0 {
		return 0
	}
	return int64(r.next()>>1) % n
}

func (r *random) between(from, to int64) int64 { return from + r.below(to-from+1) }

func (r *random) chance(percent int64) bool { return r.below(100) < percent }

// upTo is at most d, and quite often just d or nothing: what breaks a protocol
// lies at the ends.
func (r *random) upTo(d int64) int64 {
	switch r.below(4) {
	case 0:
		return d
	case 1:
		return r.below(d/16 + 1)
	}
	return r.below(d + 1)
}
