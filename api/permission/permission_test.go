package permission

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A read that showed Running was started before the declaration was answered.
// Whatever the moment of that read, and however slow the node's clock within
// the bound, the node must have stopped when the watcher's wait is over.
func TestWaitOutlastsEveryPermission(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		terms := Terms{
			Period: time.Duration(rapid.Int64Range(1e6, 60e9).Draw(t, "period")),
			Drift:  rapid.Float64Range(0, 0.1).Draw(t, "drift"),
			Look:   time.Duration(rapid.Int64Range(0, 2e9).Draw(t, "look")),
			Stop:   time.Duration(rapid.Int64Range(0, 2e9).Draw(t, "stop")),
			Slack:  time.Duration(rapid.Int64Range(0, 2e9).Draw(t, "slack")),
		}
		readBeforeAnswer := time.Duration(rapid.Int64Range(0, 120e9).Draw(t, "read before the answer"))
		slow := 1 + terms.Drift*rapid.Float64Range(0, 1).Draw(t, "slowness")
		stopping := time.Duration(float64(terms.Look+terms.Stop+terms.Slack) * rapid.Float64Range(0, 1).Draw(t, "stopping"))

		// In the watcher's time, from the answer to its declaration on.
		stopped := -readBeforeAnswer + time.Duration(float64(terms.Period)*slow) + stopping
		if wait := terms.Wait(); wait+time.Microsecond < stopped {
			t.Fatalf("the node stops %s after the declaration, the wait is %s", stopped, wait)
		}
	})
}

func TestDefaultLeavesRoomForReads(t *testing.T) {
	if Default.ReadEvery*3 > Default.Period {
		t.Errorf("one lost read of every %s must not end a permission of %s", Default.ReadEvery, Default.Period)
	}
}

func TestDefaultIsSound(t *testing.T) {
	if !Default.Sound() {
		t.Errorf("%+v", Default)
	}
}
