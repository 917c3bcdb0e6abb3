package fence

import (
	"sync"

	"github.com/lifeboat-dev/lifeboat/api/permission"
)

// Vouching decides what a node answers to its peers, which ask whether the API
// has failed, and to the watcher, which wants no peer to speak for a node that it
// declared lost. It has no clock and does no input or output; it is safe for
// concurrent use.
//
// # Why a vouched node never runs beside its successor
//
// The watcher writes Fenced only when more than half of the node's peers have
// promised not to vouch for it, and Terms.Wait after the last of those promises.
// A question of the node that started after that promise finds less than half of
// its peers and extends nothing. One that started before it extends the
// permission to less than Period after the promise, and what has run out cannot
// be extended. Peers are counted in the list that the record of the node holds:
// the node itself is its only writer, does not write it unless the record says
// Running, and counts on no list while a write of its own may still change it.
type Vouching struct {
	terms permission.Terms
	// silentTo is when the node begins to vouch: an earlier fencer may have
	// promised something.
	silentTo Instant

	mu       sync.Mutex
	lastRead Instant
	promises map[string]Instant // by node: until when
}

// NewVouching is for a fencer that has just started.
func NewVouching(terms permission.Terms, started Instant) *Vouching {
	return &Vouching{terms: terms, silentTo: started.Add(terms.PromiseFor), promises: map[string]Instant{}}
}

// Read takes the start of an own read that was answered, whatever it showed.
func (v *Vouching) Read(started Instant) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.lastRead = max(v.lastRead, started)
}

// Readable says whether the node could read its record lately.
func (v *Vouching) Readable(now Instant) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.readable(now)
}

func (v *Vouching) readable(now Instant) bool {
	return v.lastRead > 0 && now < v.lastRead.Add(v.terms.VouchAfter)
}

// Promise is the watcher's question: will this node vouch for another one no more?
// A node that cannot read its record promises nothing: the API may have failed.
func (v *Vouching) Promise(now Instant, node string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.readable(now) {
		return false
	}
	for other, until := range v.promises {
		if until <= now {
			delete(v.promises, other)
		}
	}
	v.promises[node] = now.Add(v.terms.PromiseFor)
	return true
}

// Vouch is a peer's question: can this node not read its record either?
func (v *Vouching) Vouch(now Instant, node string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return now >= v.silentTo && !v.readable(now) && v.promises[node] <= now
}
