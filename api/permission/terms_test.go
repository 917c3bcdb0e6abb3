package permission

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// adversary is all that the terms leave to chance between the last moment that
// extends a node's permission and the moment at which its pods have stopped.
type adversary struct {
	// before is how long before the watcher's wait begins the node started the read
	// that still showed Running, or the poll that peers still answered: the way of
	// its request, of the watcher's write and of the answers, at least 0.
	before time.Duration
	// slowness is the part of the allowed drift by which the node's clock runs slower.
	slowness float64
	// look, stop and stall are what the node takes, each of its share.
	look, stop, stall float64
}

// stopped is when the node's pods have stopped, from the beginning of the wait on,
// by the watcher's clock.
func (a adversary) stopped(t Terms) time.Duration {
	share := func(d time.Duration, part float64) time.Duration { return time.Duration(float64(d) * part) }
	ends := time.Duration(float64(t.Period)*(1+t.Drift*a.slowness)) - a.before
	return ends + share(t.Look, a.look) + share(t.Stop, a.stop) + share(t.Slack, a.stall)
}

func drawTerms(t *rapid.T) Terms {
	// A nanosecond must show, also after a multiplication of floating point numbers.
	duration := func(name string) time.Duration {
		return time.Duration(rapid.Int64Range(1000, int64(10*time.Second)).Draw(t, name))
	}
	return Terms{Period: duration("period"), Drift: rapid.Float64Range(0.001, 0.1).Draw(t, "drift"),
		Look: duration("look"), Stop: duration("stop"), Slack: duration("slack")}
}

// Whatever the moment of its last read or poll, and however slow the node within
// the terms, it has stopped when the wait is over.
func TestNothingOutlastsTheWait(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		terms := drawTerms(t)
		part := rapid.Float64Range(0, 1)
		a := adversary{before: time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "before")), slowness: part.Draw(t, "slowness"),
			look: part.Draw(t, "look taken"), stop: part.Draw(t, "stop taken"), stall: part.Draw(t, "stall")}
		if stopped, wait := a.stopped(terms), terms.Wait(); stopped > wait {
			t.Fatalf("the node stops after %s, the wait is %s", stopped, wait)
		}
	})
}

// worst looks for the adversary that lasts longest: it changes one thing at a time,
// as long as that helps.
func worst(t *rapid.T, terms Terms) adversary {
	part := rapid.Float64Range(0, 1)
	a := adversary{before: time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "before")), slowness: part.Draw(t, "slowness"),
		look: part.Draw(t, "look taken"), stop: part.Draw(t, "stop taken"), stall: part.Draw(t, "stall")}
	for better := true; better; {
		better = false
		for _, change := range []func(*adversary){
			func(a *adversary) { a.before /= 2 },
			func(a *adversary) { a.slowness = min(1, a.slowness+0.25) },
			func(a *adversary) { a.look = min(1, a.look+0.25) },
			func(a *adversary) { a.stop = min(1, a.stop+0.25) },
			func(a *adversary) { a.stall = min(1, a.stall+0.25) },
		} {
			next := a
			change(&next)
			if next.stopped(terms) > a.stopped(terms) {
				a, better = next, true
			}
		}
	}
	return a
}

// No term of the wait can be left out, nor a few nanoseconds of it.
func TestEachTermIsNeeded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		terms := drawTerms(t)
		stopped, wait := worst(t, terms).stopped(terms), terms.Wait()
		if stopped > wait {
			t.Fatalf("the node stops after %s, the wait is %s", stopped, wait)
		}
		for name, term := range map[string]time.Duration{
			"four nanoseconds": 4,
			"the drift":        stretch(terms.Period, terms.Drift) - terms.Period,
			"the period":       terms.Period,
			"the look":         terms.Look,
			"the stop":         terms.Stop,
			"the slack":        terms.Slack,
		} {
			if term >= 4 && stopped <= wait-term {
				t.Errorf("without %s, a wait of %s would do: nothing was found that stops after it, the worst stops after %s", name, wait-term, stopped)
			}
		}
	})
}
