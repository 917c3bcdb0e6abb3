package migrate

import (
	"context"
	"time"

	"github.com/lifeboat-dev/lifeboat/watcher/decide"
)

// lookEvery is how often everything is looked at even if nothing was reported:
// silence makes no event.
const lookEvery = 500 * time.Millisecond

// loop drives a decide.Machine: it feeds it what is known, carries out what it
// decides, and returns the answers.
type loop struct {
	machine *decide.Machine
	// known is everything that is known of the nodes just now.
	known func() []decide.Node
	// write carries out an action that writes a fence record, and returns the
	// record as it is afterwards. It is called in a goroutine of its own.
	write func(context.Context, decide.Action) (decide.Fence, error)
	// tell carries out the other actions. It must not block.
	tell func(decide.Action)
	// changed receives when known may have changed.
	changed <-chan struct{}
}

type answer struct {
	node  string
	fence decide.Fence
	err   error
	// at is when the answer came: the wait counts from it.
	at time.Time
}

// run decides until ctx ends.
func (l *loop) run(ctx context.Context) {
	answers := make(chan answer)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		actions, wake := l.machine.Step(time.Now(), l.known())
		l.carryOut(ctx, actions, answers)
		next := lookEvery
		if !wake.IsZero() {
			next = min(next, time.Until(wake))
		}
		timer.Reset(max(0, next))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-l.changed:
		case a := <-answers:
			l.carryOut(ctx, l.machine.Answer(a.at, a.node, a.fence, a.err != nil), answers)
		}
	}
}

func (l *loop) carryOut(ctx context.Context, actions []decide.Action, answers chan<- answer) {
	for _, action := range actions {
		switch action.Kind {
		case decide.DeclareLost, decide.ConfirmFenced, decide.Withdraw:
			go func() {
				fence, err := l.write(ctx, action)
				a := answer{node: action.Node, fence: fence, err: err, at: time.Now()}
				select {
				case answers <- a:
				case <-ctx.Done():
				}
			}()
		default:
			l.tell(action)
		}
	}
}
