package fence

import (
	"slices"
	"testing"
	"time"

	"github.com/lifeboat-dev/lifeboat/api/permission"
	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// TestVouching is what a node that began at 0 and last read at 20 s answers.
func TestVouching(t *testing.T) {
	for name, test := range map[string]struct {
		now            Instant
		promised       Instant // 0: nothing
		promise, vouch bool
	}{
		"while it reads":                         {now: 20*second + second/2, promise: true},
		"when it cannot read":                    {now: 21 * second, vouch: true},
		"after a promise":                        {now: 30 * second, promised: 20*second + second/2},
		"when the promise is over":               {now: 30*second + second/2, promised: 20*second + second/2, vouch: true},
		"the promise of a node that cannot read": {now: 25 * second, promised: 22 * second, vouch: true},
	} {
		t.Run(name, func(t *testing.T) {
			v := NewVouching(permission.Default, 0)
			v.Read(20 * second)
			if test.promised > 0 {
				v.Promise(test.promised, "a")
			}
			if got := v.Vouch(test.now, "a"); got != test.vouch {
				t.Errorf("vouches: %t", got)
			}
			if got := v.Vouch(test.now, "b"); got != (test.vouch || test.promised > 0 && !test.promise) {
				t.Errorf("vouches for a node that nobody asked about: %t", got)
			}
			if got := v.Promise(test.now, "a"); got != test.promise {
				t.Errorf("promises: %t", got)
			}
		})
	}
	fresh := NewVouching(permission.Default, 20*second)
	if fresh.Vouch(29*second, "a") {
		t.Error("a fencer vouches although an earlier one may have promised not to")
	}
	if !fresh.Vouch(30*second, "a") {
		t.Error("a fencer never vouches")
	}
}

// running is a permit that has read, at 10 s, a record of its own with peers.
func running(t *testing.T) *Permit {
	t.Helper()
	p := NewPermit(permission.Default, thisBoot)
	p.SetPeers(9*second, []string{"a", "b", "c"})
	p.Answered(Read{Started: 9 * second, Record: record(v1alpha1.FenceRunning, 1, thisBoot)})
	d := p.Decide(9*second, NoContainer)
	if d.Write != SetPeers || !slices.Equal(d.Peers, []string{"a", "b", "c"}) {
		t.Fatalf("decides to %s %v", d.Write, d.Peers)
	}
	p.Written(10*second - 1)
	p.Answered(Read{Started: 10 * second, Record: withPeers("8", "a", "b", "c")})
	return p
}

func withPeers(version string, peers ...string) *Record {
	r := record(v1alpha1.FenceRunning, 1, thisBoot)
	r.Version, r.Peers = version, peers
	return r
}

func TestPollsWhenItCannotRead(t *testing.T) {
	p := running(t)
	if d := p.Decide(11*second-1, NoContainer); d.Poll {
		t.Error("polls although its reads succeed")
	}
	d := p.Decide(11*second, NoContainer)
	if !d.Poll || !slices.Equal(d.Asked, []string{"a", "b", "c"}) {
		t.Fatalf("polls: %t, asks %v", d.Poll, d.Asked)
	}
	if p.Decide(11*second+second/8, NoContainer).Poll {
		t.Error("polls twice within PollEvery")
	}
	if !p.Decide(11*second+second/4, NoContainer).Poll {
		t.Error("does not poll again")
	}
	if p.Decide(12*second, NoContainer).Poll {
		t.Error("polls although its permission has run out")
	}
}

func TestPolled(t *testing.T) {
	all := []string{"a", "b", "c"}
	for name, test := range map[string]struct {
		now    Instant
		before func(p *Permit)
		poll   Poll
		until  Instant
	}{
		"half and more vouch":         {poll: Poll{11 * second, all, []string{"a", "c"}}, until: 13 * second},
		"fewer than half vouch":       {poll: Poll{11 * second, all, []string{"a"}}},
		"other peers were asked":      {poll: Poll{11 * second, []string{"a", "b"}, []string{"a", "b"}}},
		"the permission has run out":  {now: 12 * second, poll: Poll{11 * second, all, all}},
		"the node was declared lost":  {before: func(p *Permit) { read(p, record(v1alpha1.FenceLost, 1, thisBoot)) }, poll: Poll{11 * second, all, all}},
		"it was fenced meanwhile":     {before: func(p *Permit) { read(p, record(v1alpha1.FenceFenced, 2, thisBoot)) }, poll: Poll{11 * second, all, all}, until: -1},
		"no peers":                    {before: func(p *Permit) { read(p, withPeers("9")) }, poll: Poll{11 * second, nil, nil}},
		"a write of peers is unclear": {before: unclear, poll: Poll{43 * second, all, all}},
	} {
		t.Run(name, func(t *testing.T) {
			p := running(t)
			until := p.Until()
			if test.before != nil {
				test.before(p)
				until = p.Until()
			}
			if test.now == 0 {
				test.now = until - 1
			}
			p.Polled(test.now, test.poll)
			switch {
			case test.until > 0 && p.Until() != test.until:
				t.Errorf("permitted until %d, want %d", p.Until(), test.until)
			case test.until <= 0 && p.Until() != until:
				t.Errorf("permitted until %d, want %d as before", p.Until(), until)
			}
		})
	}
}

// read is a read just after those of running.
func read(p *Permit, r *Record) { p.Answered(Read{Started: 10*second + 1, Record: r}) }

// unclear leaves a write of other peers that may still come to pass: the record
// has the version that it was compared with.
func unclear(p *Permit) {
	p.SetPeers(11*second, []string{"a", "b", "d"})
	p.Decide(41*second, NoContainer)
	p.Written(41*second + second/2)
	p.Answered(Read{Started: 41*second + second/2, Record: withPeers("8", "a", "b", "c")})
}

// What was wanted for long enough is written, but not over and over.
func TestPeersSettle(t *testing.T) {
	p := running(t)
	p.SetPeers(11*second, []string{"a", "b", "d"})
	if d := p.Decide(11*second, NoContainer); d.Write != NoWrite {
		t.Errorf("decides to %s at once", d.Write)
	}
	p.SetPeers(20*second, []string{"a", "b", "c"})
	p.SetPeers(21*second, []string{"a", "b", "d"})
	if d := p.Decide(45*second, NoContainer); d.Write != NoWrite {
		t.Errorf("decides to %s although other peers were wanted 25 s ago", d.Write)
	}
	if d := p.Decide(51*second, NoContainer); d.Write != SetPeers {
		t.Errorf("decides to %s", d.Write)
	}
}

// Another boot's permission ended with it. Its record is taken over once the watcher
// has had the time to have what ran in that boot restored.
func TestAnotherBootsRunningPermitsNothing(t *testing.T) {
	p := NewPermit(permission.Default, thisBoot)
	left := record(v1alpha1.FenceRunning, 1, earlierBoot)
	for now := second; now < 9*second; now += second {
		p.Answered(Read{Started: now, Record: left})
		want := NoWrite
		if now >= second.Add(adoptAfter) {
			want = Adopt
		}
		d := p.Decide(now, NoContainer)
		if d.Permitted || d.Write != want {
			t.Errorf("after %s: permitted: %t, decides to %s, want %s", time.Duration(now-second), d.Permitted, d.Write, want)
		}
		if d.Write == Adopt {
			return
		}
	}
	t.Error("the record was never taken over")
}
