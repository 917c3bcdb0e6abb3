package fence

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lifeboat-dev/lifeboat/api/permission"
	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const (
	thisBoot    = "boot-2"
	earlierBoot = "boot-1"
	second      = Instant(time.Second)
)

func record(state v1alpha1.FenceState, epoch int64, bootID string) *Record {
	return &Record{Version: "7", State: state, Epoch: epoch, BootID: bootID}
}

// TestWriteFollowsRecord is what a node does about each state of its record.
func TestWriteFollowsRecord(t *testing.T) {
	tests := map[string]struct {
		record *Record
		oldest int64
		want   Write
	}{
		"no record":                               {nil, NoContainer, Create},
		"running":                                 {record(v1alpha1.FenceRunning, 3, thisBoot), 3, NoWrite},
		"running since an earlier boot":           {record(v1alpha1.FenceRunning, 3, earlierBoot), NoContainer, NoWrite},
		"lost, but alive":                         {record(v1alpha1.FenceLost, 3, thisBoot), 3, Refute},
		"lost, and booted since":                  {record(v1alpha1.FenceLost, 3, earlierBoot), NoContainer, NoWrite},
		"fenced, nothing left":                    {record(v1alpha1.FenceFenced, 4, thisBoot), NoContainer, Return},
		"fenced, an old copy is left":             {record(v1alpha1.FenceFenced, 4, thisBoot), 3, NoWrite},
		"fenced, only copies of the new epoch":    {record(v1alpha1.FenceFenced, 4, thisBoot), 4, Return},
		"fenced in an earlier boot, nothing left": {record(v1alpha1.FenceFenced, 4, earlierBoot), NoContainer, Return},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			permit := NewPermit(permission.Default, thisBoot)
			permit.Answered(Read{Started: second, Record: test.record})
			got := permit.Decide(second, test.oldest)
			if got.Write != test.want {
				t.Errorf("Decide wrote %s, want %s", got.Write, test.want)
			}
			if got.Write != NoWrite && !cmp.Equal(got.Replaces, test.record) {
				t.Errorf("Decide replaces %+v, want the record that was read", got.Replaces)
			}
		})
	}
}

// TestPermission is how long which reads permit.
func TestPermission(t *testing.T) {
	const period = 2 * second
	tests := map[string]struct {
		reads []Read
		until Instant
	}{
		"no read": {nil, 0},
		"running permits from the start of the read": {
			[]Read{{10 * second, record(v1alpha1.FenceRunning, 1, thisBoot)}}, 10*second + period},
		"an earlier read that is answered later takes nothing away": {
			[]Read{{10 * second, record(v1alpha1.FenceRunning, 1, thisBoot)}, {9 * second, record(v1alpha1.FenceRunning, 1, thisBoot)}}, 10*second + period},
		"absent permits nothing": {
			[]Read{{10 * second, nil}}, 0},
		"lost permits nothing new, and leaves what was permitted": {
			[]Read{{10 * second, record(v1alpha1.FenceRunning, 1, thisBoot)}, {11 * second, record(v1alpha1.FenceLost, 1, thisBoot)}}, 10*second + period},
		"fenced ends the permission at once": {
			[]Read{{10 * second, record(v1alpha1.FenceRunning, 1, thisBoot)}, {11 * second, record(v1alpha1.FenceFenced, 2, thisBoot)}}, 0},
		"after fenced an older read permits nothing": {
			[]Read{{11 * second, record(v1alpha1.FenceFenced, 2, thisBoot)}, {10 * second, record(v1alpha1.FenceRunning, 1, thisBoot)}}, 0},
		"after fenced a newer read permits again": {
			[]Read{{11 * second, record(v1alpha1.FenceFenced, 2, thisBoot)}, {12 * second, record(v1alpha1.FenceRunning, 2, thisBoot)}}, 12*second + period},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			permit := NewPermit(permission.Default, thisBoot)
			for _, read := range test.reads {
				permit.Answered(read)
			}
			if permit.Until() != test.until {
				t.Fatalf("permitted until %d, want %d", permit.Until(), test.until)
			}
			if test.until > 0 {
				if !permit.Decide(test.until-1, NoContainer).Permitted {
					t.Error("not permitted just before the end")
				}
				if permit.Decide(test.until, NoContainer).Permitted {
					t.Error("still permitted at the end")
				}
			}
		})
	}
}

// TestOneWriteAtATime: the record is not written again before a read that
// started after the last write ended.
func TestOneWriteAtATime(t *testing.T) {
	permit := NewPermit(permission.Default, thisBoot)
	lost := record(v1alpha1.FenceLost, 1, thisBoot)
	permit.Answered(Read{Started: 1 * second, Record: lost})
	if got := permit.Decide(2*second, NoContainer); got.Write != Refute {
		t.Fatalf("Decide wrote %s, want refute", got.Write)
	}
	permit.Answered(Read{Started: 2 * second, Record: lost})
	if got := permit.Decide(3*second, NoContainer); got.Write != NoWrite {
		t.Errorf("Decide wrote %s while a write was under way", got.Write)
	}
	permit.Written(4 * second)
	permit.Answered(Read{Started: 3 * second, Record: lost})
	got := permit.Decide(4*second, NoContainer)
	if got.Write != NoWrite {
		t.Errorf("Decide wrote %s after a read from before the last write's end", got.Write)
	}
	if !got.Read {
		t.Error("Decide did not ask for a read at once after a write")
	}
	permit.Answered(Read{Started: 4 * second, Record: lost})
	if got := permit.Decide(5*second, NoContainer); got.Write != Refute {
		t.Errorf("Decide wrote %s, want refute again", got.Write)
	}
}

// TestReadsAreSpaced: reads start every ReadEvery, however often Decide is asked.
func TestReadsAreSpaced(t *testing.T) {
	permit := NewPermit(permission.Default, thisBoot)
	var reads []Instant
	for now := second; now < 3*second; now = now.Add(50 * time.Millisecond) {
		if permit.Decide(now, NoContainer).Read {
			reads = append(reads, now)
		}
	}
	want := []Instant{second, second * 3 / 2, 2 * second, second * 5 / 2}
	if diff := cmp.Diff(want, reads); diff != "" {
		t.Errorf("reads start at (-want +got):\n%s", diff)
	}
}

// TestResume: an earlier fencer's permission goes on, and its epoch holds.
func TestResume(t *testing.T) {
	permit := NewPermit(permission.Default, thisBoot)
	permit.Resume(5*second, 4)
	got := permit.Decide(4*second, NoContainer)
	if !got.Permitted || got.KillBelow != 4 {
		t.Errorf("after Resume: permitted %t, killing below %d; want true, 4", got.Permitted, got.KillBelow)
	}
	permit.Answered(Read{Started: 4 * second, Record: nil})
	if got := permit.Decide(4*second, NoContainer); got.Write != Create || got.KillBelow != 4 {
		t.Errorf("Decide wrote %s above epoch %d, want create above 4", got.Write, got.KillBelow)
	}
}

// TestPermittedOnlyByAGoodRead: whatever is answered in whatever order, the node
// is permitted at most Period after the start of the last read that showed
// Running, and the epoch below which it kills never falls.
func TestPermittedOnlyByAGoodRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		permit := NewPermit(permission.Default, thisBoot)
		now, lastGood, killBelow := Instant(0), Instant(-1), int64(0)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now += Instant(rapid.Int64Range(0, int64(second)).Draw(t, "passes"))
			switch rapid.IntRange(0, 2).Draw(t, "event") {
			case 0:
				started := max(0, now-Instant(rapid.Int64Range(0, int64(3*second)).Draw(t, "answeredAfter")))
				var r *Record
				if state := rapid.SampledFrom([]v1alpha1.FenceState{"", v1alpha1.FenceRunning, v1alpha1.FenceLost, v1alpha1.FenceFenced}).Draw(t, "state"); state != "" {
					r = record(state, rapid.Int64Range(1, 9).Draw(t, "epoch"), thisBoot)
				}
				permit.Answered(Read{Started: started, Record: r})
				if r != nil && r.State == v1alpha1.FenceRunning {
					lastGood = max(lastGood, started)
				}
			case 1:
				permit.Written(now)
			}
			d := permit.Decide(now, NoContainer)
			if d.Permitted && (lastGood < 0 || now >= lastGood.Add(permission.Default.Period)) {
				t.Fatalf("permitted at %d though the last good read started at %d", now, lastGood)
			}
			if d.KillBelow < killBelow {
				t.Fatalf("kills below %d after having killed below %d", d.KillBelow, killBelow)
			}
			killBelow = d.KillBelow
		}
	})
}
