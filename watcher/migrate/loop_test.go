package migrate

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lifeboat-dev/lifeboat/api/permission"
	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/decide"
	"github.com/lifeboat-dev/lifeboat/watcher/detect"
)

// TestLoopTiming checks, on a clock of its own, when the loop does what.
func TestLoopTiming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		began := time.Now()
		since := func() time.Duration { return time.Since(began) }

		const (
			writing = 40 * time.Millisecond // one write takes so long
			asking  = 7 * time.Millisecond  // and one question to a peer
		)
		var mu sync.Mutex
		fence := decide.Fence{State: v1alpha1.FenceRunning, Generation: 1, Peers: []string{"b", "c", "d"}}
		fact := detect.Fact{Node: "a", State: detect.Alive}
		failures := 1
		var declared, fenced, recovered time.Duration

		l := &loop{
			machine: decide.New(decide.Config{}),
			changed: make(chan struct{}),
			known: func() decide.View {
				if since() >= time.Second {
					fact.State = detect.Suspected
				}
				mu.Lock()
				defer mu.Unlock()
				return decide.View{Nodes: []decide.Node{{Fact: fact, Fence: fence}}}
			},
			write: func(_ context.Context, action decide.Action) answer {
				time.Sleep(writing)
				mu.Lock()
				defer mu.Unlock()
				if failures > 0 {
					failures--
					return answer{err: errors.New("no API server")}
				}
				fence = decide.Fence{State: stateAfter[action.Kind], Generation: fence.Generation + 1, Peers: fence.Peers}
				switch action.Kind {
				case decide.DeclareLost:
					declared = since()
				case decide.ConfirmFenced:
					fenced = since()
				}
				return answer{fence: fence}
			},
			ask: func(ctx context.Context, _ decide.Action, peer string) (promised, answered bool) {
				if peer == "b" { // it is lost, too
					<-ctx.Done()
					return false, false
				}
				time.Sleep(asking)
				return true, true
			},
			tell: func(action decide.Action) {
				if action.Kind == decide.Recover {
					recovered = since()
				}
			},
		}
		ended := make(chan struct{})
		go func() { defer close(ended); l.run(ctx) }()
		time.Sleep(10 * time.Second)
		cancel()
		<-ended

		// Silence makes no event: it is noticed at the next look. The first write
		// fails, and is tried again 200 ms after it did.
		if earliest, latest := time.Second+2*writing, time.Second+lookEvery+2*writing+200*time.Millisecond; declared < earliest || declared > latest {
			t.Errorf("declared at %s, want from %s to %s", declared, earliest, latest)
		}
		if want := declared + asking + permission.Default.Wait() + writing; fenced != want {
			t.Errorf("fenced at %s, want %s: the declaration's answer, the peers', a wait, and a write", fenced, want)
		}
		if recovered != fenced {
			t.Errorf("recovered at %s, want at once when fenced, at %s", recovered, fenced)
		}
	})
}
